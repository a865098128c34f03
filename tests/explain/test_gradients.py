"""Gradients with respect to the image, against rules worked out by hand and their axioms."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import flaxarch
from flaxarch import explain
from tests.explain.nets import Linear, Stack, apply, random_images, random_variables

PIXELS = random_images(4, (1, 1, 3))
CLASSES = np.asarray([0, 1, 2, 1])


def by_hand(variables: Any, images: Any, classes: Any, passes: Callable[[Any, Any], Any]) -> np.ndarray:
    """The gradient of a `Stack`, layer by layer; passes(x, g) is what an activation lets back."""
    params = variables["params"]
    x, before = np.asarray(images)[:, 0, 0], []
    for i in range(len(params) - 1):
        before.append(x @ params[f"dense{i}"]["kernel"] + params[f"dense{i}"]["bias"][None])
        x = np.maximum(before[-1], 0)
    g = params["fc"]["kernel"].T[np.asarray(classes)]
    for i in reversed(range(len(params) - 1)):
        g = passes(before[i], g) @ params[f"dense{i}"]["kernel"].T
    return g[:, None, None]


def test_gradient_is_the_backward_pass():
    model = Stack()
    variables = random_variables(model, (1, 1, 3))
    expected = by_hand(variables, PIXELS, CLASSES, lambda x, g: g * (x > 0))
    np.testing.assert_allclose(explain.gradient(model, variables, PIXELS, CLASSES), expected, atol=1e-5)


def test_guided_backprop_lets_back_only_what_is_positive_where_the_relu_is_on():
    model = Stack()
    variables = random_variables(model, (1, 1, 3))
    expected = by_hand(variables, PIXELS, CLASSES, lambda x, g: g * (x > 0) * (g > 0))
    found = explain.guided_backprop(model, variables, PIXELS, CLASSES)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - explain.gradient(model, variables, PIXELS, CLASSES)).max() > 0.1


FORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum of zero": lambda x: jnp.maximum(0.0, x),
    "relu6": nn.relu6,
    "clip": lambda x: jnp.clip(x, 0, 1e3),
    "clamp": lambda x: lax.clamp(0.0, x, 1e3),
    "jit": jax.jit(lambda x: jnp.maximum(x, 0)),
    "checkpoint": jax.checkpoint(nn.relu),  # pyright: ignore[reportPrivateImportUsage]
}


QUICK = ("maximum", "relu6", "clip", "checkpoint")


@pytest.mark.parametrize(
    "form", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in FORMS]
)
def test_guided_backprop_knows_every_form_of_a_relu(form: str):
    variables = random_variables(Stack(), (1, 1, 3))  # no value reaches 6
    found = explain.guided_backprop(Stack(FORMS[form]), variables, PIXELS, CLASSES)
    np.testing.assert_allclose(found, explain.guided_backprop(Stack(), variables, PIXELS, CLASSES), atol=1e-6)


def test_a_relu6_passes_nothing_back_above_six():
    variables = random_variables(Stack(), (1, 1, 3))
    large = 1e3 * PIXELS
    found = explain.guided_backprop(Stack(nn.relu6), variables, large, CLASSES)
    assert np.abs(found).max() < np.abs(explain.guided_backprop(Stack(), variables, large, CLASSES)).max() / 2


@pytest.mark.parametrize(
    "act",
    [nn.hard_swish, *(pytest.param(x, marks=pytest.mark.slow) for x in (nn.hard_sigmoid, nn.leaky_relu))],
)
def test_other_activations_are_not_guided_even_with_a_relu_in_their_formula(act: Any):
    model = Stack(lambda x: act(x))
    variables = random_variables(model, (1, 1, 3))
    with pytest.raises(ValueError, match="Stack has no ReLU to guide"):
        explain.guided_backprop(model, variables, PIXELS, CLASSES)
    behind = Stack(lambda x: act(nn.relu(x)), widths=(6,))
    variables = random_variables(behind, (1, 1, 3))

    def passes(x: Any, g: Any) -> Any:
        g = jax.vjp(act, jnp.maximum(x, 0))[1](jnp.asarray(g))[0]  # the activation's own gradient
        return np.asarray(g * (x > 0) * (g > 0))

    np.testing.assert_allclose(
        explain.guided_backprop(behind, variables, PIXELS, CLASSES),
        by_hand(variables, PIXELS, CLASSES, passes),
        atol=1e-5,
    )


def test_a_relu_in_a_loop_is_refused_rather_than_passed_over():
    def looped(x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 2, lambda _, x: nn.relu(x), x)

    variables = random_variables(Stack(), (1, 1, 3))
    with pytest.raises(ValueError, match="does not see into loops: a ReLU is in a `scan`"):
        explain.guided_backprop(Stack(looped), variables, PIXELS, CLASSES)


class Maps(nn.Module):
    """Maps of logits, linear in the image."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        return nn.Conv(2, (3, 3), name="head")(images)


def test_gradients_are_of_the_mean_where_logits_are_maps():
    images, variables = np.ones((2, 5, 5, 1), np.float32), random_variables(Maps(), (5, 5, 1))
    kernel = variables["params"]["head"]["kernel"]
    found = explain.gradient(Maps(), variables, images, np.asarray([0, 1]))
    for image, c in zip(found, (0, 1), strict=True):  # a pixel of the middle is seen from each side
        np.testing.assert_allclose(
            image[1:-1, 1:-1, 0], np.full((3, 3), kernel[..., 0, c].sum() / 25), atol=1e-6
        )


# integrated gradients


def test_integrated_gradients_of_a_linear_network_are_its_terms():
    model = Linear()
    images = random_images(3, (2, 2, 3))
    variables = random_variables(model, (2, 2, 3))
    classes = np.asarray([0, 3, 2])
    kernel = variables["params"]["fc"]["kernel"].T[classes].reshape(3, 2, 2, 3)
    for steps in (1, 5):
        found = explain.integrated_gradients(model, variables, images, classes, baseline=0.5, steps=steps)
        np.testing.assert_allclose(found, (images - 0.5) * kernel, atol=1e-6)


def test_integrated_gradients_sum_to_the_difference_of_the_logits():
    model = Stack(nn.tanh)
    variables = random_variables(model, (1, 1, 3))
    baseline = np.asarray([0.3, -0.2, 0.1], np.float32)
    ends = [apply(model, variables, x) for x in (PIXELS, np.broadcast_to(baseline, PIXELS.shape))]
    expected = (ends[0] - ends[1])[range(4), CLASSES]
    gaps = []
    for steps in (4, 32):
        found = explain.integrated_gradients(
            model,
            variables,
            PIXELS,
            CLASSES,
            baseline=baseline.reshape(1, 1, 1, 3),
            steps=steps,
            batch_size=4,
        )
        gaps.append(np.abs(np.asarray(found).sum((1, 2, 3)) - expected).max())
    assert gaps[1] < 1e-3
    assert gaps[1] < gaps[0] / 16  # of second order: the midpoint rule's error falls by 64


@pytest.mark.slow
def test_batches_change_no_integrated_gradient():
    model = Stack()
    variables = random_variables(model, (1, 1, 3))
    integrate = partial(explain.integrated_gradients, model, variables, PIXELS, CLASSES, steps=7)
    np.testing.assert_allclose(integrate(batch_size=3), integrate(batch_size=100), atol=1e-6)
    np.testing.assert_allclose(integrate(batch_size=1), integrate(batch_size=100), atol=1e-6)


def test_integrated_gradients_need_a_step():
    with pytest.raises(ValueError, match="steps and batch_size are 0 and 8: both have to be at least 1"):
        explain.integrated_gradients(Linear(), {}, PIXELS, steps=0)


def test_a_network_of_gelu_has_no_guided_backprop():
    row = flaxarch.published("airbench94")
    model = flaxarch.create("airbench94")
    images = jax.ShapeDtypeStruct((1, *row.input_shape), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    with pytest.raises(ValueError, match="Airbench has no ReLU to guide"):
        jax.eval_shape(partial(explain.guided_backprop, model), variables, images)
