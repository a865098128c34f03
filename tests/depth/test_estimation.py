"""What blocks do to an estimate: norms, directions and linear probes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch import depth
from flaxarch.depth.scores import cross_entropy
from tests.depth.nets import (
    SHAPE,
    VECTORS,
    DenseResidual,
    ScaledSums,
    random_batch,
    random_variables,
    tiny_densenet,
    tiny_preact,
    tiny_resnet,
    tiny_vgg,
)

_create: Any = flaxarch.create
MODEL = DenseResidual(3, num_classes=2)


@pytest.fixture(scope="module")
def variables() -> Any:
    return random_variables(MODEL, VECTORS)


@pytest.fixture(scope="module")
def batch() -> tuple[jax.Array, jax.Array]:
    images, labels = random_batch(5, VECTORS)
    return images, labels % 2


def refine(variables: Any, batch: tuple[jax.Array, jax.Array]) -> depth.Refinement:
    """In batches of 2, which do not divide 5 images: what fills the last one must not count."""
    return depth.refinement(MODEL, variables, *batch, batch_size=2)


def by_hand(variables: Any, images: jax.Array, labels: jax.Array) -> list[tuple[jax.Array, ...]]:
    """x, F(x) and the loss's gradient for x, each (N, 8), of each block written out."""
    params = variables["params"]

    def branch(x: jax.Array, i: int) -> jax.Array:
        first, second = (params[f"block{i}"][name] for name in ("dense1", "dense2"))
        y = jax.nn.relu(x @ first["kernel"] + first["bias"][None])
        return y @ second["kernel"] + second["bias"][None]

    def loss(x: jax.Array, i: int) -> jax.Array:
        for j in range(i, 3):
            x = x + branch(x, j)
        logits = x @ params["fc"]["kernel"] + params["fc"]["bias"][None]
        return cross_entropy(logits, labels).sum()

    x, found = images[:, 0, 0], []
    for i in range(3):
        found.append((x, branch(x, i), jax.grad(loss)(x, i)))
        x = x + found[-1][1]
    return found


def test_ratio_and_cosine_are_those_of_the_blocks_written_out(variables: Any, batch: Any):
    found = refine(variables, batch)
    for i, arrays in enumerate(jax.jit(by_hand)(variables, *batch)):
        x, y, gradient = map(np.asarray, arrays)
        of_x, of_y, of_gradient = (np.linalg.norm(v, axis=1) for v in (x, y, gradient))
        np.testing.assert_allclose(found.norm_ratio[i], np.mean(of_y / of_x), rtol=1e-5)
        cosine = -np.sum(y * gradient, axis=1) / (of_y * of_gradient)
        np.testing.assert_allclose(found.cosine[i], cosine.mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        pytest.param(tiny_preact(stage_sizes=(1, 2), scan=True), SHAPE, id="pre-activation, in a loop"),
        pytest.param(tiny_resnet(14), SHAPE, id="post-activation", marks=pytest.mark.slow),
        pytest.param(
            _create("resnet50").clone(stage_sizes=(1, 2, 1, 1), widths=(8, 8, 8, 8)),
            (32, 32, 3),
            id="bottlenecks",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            _create("resnetv2_18").clone(widths=(8, 8, 8, 8)),
            (32, 32, 3),
            id="pre-activation for ImageNet",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_block_has_a_cosine_where_it_keeps_the_shape_and_a_ratio_everywhere(model: Any, shape: Any):
    variables, batch = random_variables(model, shape), random_batch(2, shape)
    found = depth.refinement(model, variables, *batch)
    keeps = np.array([block.input_shape == block.output_shape for block in depth.blocks(model, shape)])
    np.testing.assert_array_equal(np.isfinite(found.cosine), keeps)
    assert keeps.any()
    assert (np.abs(found.cosine)[keeps] <= 1).all()
    i = int(np.argmin(keeps))  # the first that does not

    @jax.jit
    def summands(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        chain = depth.Chain(model, shape)
        x = chain.run(variables, images, stop=i)
        return chain.branch(variables, x, i), chain.shortcut(variables, x, i)

    branch, shortcut = (np.linalg.norm(np.asarray(x).reshape(2, -1), axis=1) for x in summands(batch[0]))
    np.testing.assert_allclose(found.norm_ratio[i], np.mean(branch / shortcut), rtol=1e-5)


def test_branch_that_scales_its_input_has_that_ratio_and_the_inputs_own_direction():
    model = ScaledSums(2, 0.5)
    variables = random_variables(model)
    kernel = 0.5 * np.eye(3, dtype=np.float32).reshape(1, 1, 3, 3)
    variables["params"] = jax.tree.map(lambda _: kernel, variables["params"])
    images, labels = random_batch(3)
    labels = labels % 3
    found = depth.refinement(model, variables, images, labels)
    np.testing.assert_allclose(found.norm_ratio, [0.5, 0.5], rtol=1e-6)
    # logits are 2.25 times the mean pixel, so that the gradient is one (3,) vector at all places
    pixels, mean = np.asarray(images).reshape(3, -1), np.asarray(images).mean(axis=(1, 2))
    probs = np.exp(2.25 * mean) / np.exp(2.25 * mean).sum(axis=1, keepdims=True)
    gradient = np.tile(probs - np.eye(3)[labels], 64)
    lengths = np.linalg.norm(pixels, axis=1) * np.linalg.norm(gradient, axis=1)
    cosine = -(pixels * gradient).sum(axis=1) / lengths
    np.testing.assert_allclose(found.cosine, [cosine.mean()] * 2, rtol=1e-4)
    # of images that are zero, no direction is known
    nothing = depth.refinement(model, variables, jnp.zeros_like(images), labels)
    np.testing.assert_array_equal(np.asarray(nothing), 0)


def scaled(params: Any, block: str, layer: str, factor: float) -> Any:
    """The parameters with one layer's multiplied."""
    new = jax.tree.map(lambda x: x * factor, params[block][layer] if layer else params[block])
    return {**params, block: {**params[block], layer: new} if layer else new}


def test_scale_of_a_branch_is_in_its_ratio_and_that_of_the_head_in_nothing(variables: Any, batch: Any):
    before, params = refine(variables, batch), variables["params"]
    after = refine({**variables, "params": scaled(params, "block2", "dense2", 3.0)}, batch)
    np.testing.assert_allclose(after.norm_ratio, before.norm_ratio * jnp.array([1, 1, 3]), rtol=1e-5)
    # with two classes the gradient of an image has one direction, however large the head's weights
    after = refine({**variables, "params": scaled(params, "fc", "", 0.1)}, batch)
    np.testing.assert_allclose(after.cosine, before.cosine, rtol=1e-3, atol=1e-5)
    assert float(jnp.abs(before.cosine).min()) > 1e-3


def test_network_without_shortcuts_refines_nothing():
    with pytest.raises(ValueError, match="VGG has no residual block"):
        depth.refinement(tiny_vgg(), {}, *random_batch(1, (32, 32, 3)))
    images, labels = random_batch(2, VECTORS)
    with pytest.raises(ValueError, match=r"labels \(N,\), not"):
        depth.refinement(MODEL, {}, images, labels[:1])


def features(num_images: int = 60, num_classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    return rng.normal(size=(num_images, 5)) + np.eye(num_classes, 5)[labels], labels


def test_probe_is_the_least_squares_solution_of_the_system_with_ridge_rows():
    x, labels = features()
    probe = depth.fit_probe(x, labels, 3, ridge=0.1)
    rows = np.vstack([(x - x.mean(axis=0)) / x.std(axis=0), np.sqrt(0.1 * len(x)) * np.eye(5)])
    ones = np.concatenate([np.ones(len(x)), np.zeros(5)])[:, None]  # the bias is not shrunk
    targets = np.vstack([np.eye(3)[labels], np.zeros((5, 3))])
    solution, *_ = np.linalg.lstsq(np.hstack([rows, ones]), targets, rcond=None)
    expected = rows[: len(x)] @ solution[:5] + solution[5]
    np.testing.assert_allclose(x @ probe.kernel + probe.bias, expected, atol=1e-10)


def test_units_of_the_features_and_constant_ones_do_not_count():
    x, labels = features()
    probe = depth.fit_probe(x, labels, 3)
    other = np.hstack([x * [1e-3, 1, 7, 1e4, -2] + 5, np.full((len(x), 1), 3.0)])
    again = depth.fit_probe(other, labels, 3)
    np.testing.assert_allclose(other @ again.kernel + again.bias, x @ probe.kernel + probe.bias, atol=1e-8)


@pytest.mark.parametrize(
    ("model", "num_states"),
    [
        pytest.param(tiny_resnet(8), 4, id="residual"),
        pytest.param(tiny_densenet(), 6, id="concatenated", marks=pytest.mark.slow),
    ],
)
def test_probe_finds_what_the_images_say_and_nothing_in_noise(model: Any, num_states: int):
    variables = random_variables(model)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    noise = jnp.asarray(rng.normal(size=(80, *SHAPE)), jnp.float32)
    bright = noise + 2 * labels[:, None, None, None] * np.array([[[[1, 0, -1]]]])
    train, test = (bright[:40], jnp.asarray(labels[:40])), (bright[40:], jnp.asarray(labels[40:]))
    accuracy = depth.probe_accuracy(model, variables, train, test, batch_size=16)
    assert accuracy.shape == (num_states,)
    assert (accuracy > 0.85).all()
    states = depth.pooled_states(model, variables, test[0], batch_size=16)
    probe = depth.fit_probe(depth.pooled_states(model, variables, train[0], batch_size=16)[-1], train[1], 2)
    last = np.mean((states[-1] @ probe.kernel + probe.bias).argmax(axis=1) == test[1])
    assert accuracy[-1] == last
    unknown = depth.probe_accuracy(
        model, variables, (noise[:40], train[1]), (noise[40:], test[1]), batch_size=16
    )
    assert (np.abs(unknown - 0.5) < 0.3).all()  # four standard errors of 40 coins


def test_states_are_pooled_for_all_images_whatever_the_batch(variables: Any, batch: Any):
    found = depth.pooled_states(MODEL, variables, batch[0], batch_size=2)
    for x, (y, _, _) in zip(found, jax.jit(by_hand)(variables, *batch), strict=False):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_probe_of_what_is_no_problem_is_refused_in_one_sentence():
    x, labels = features()
    for given, sentence in (
        ((x[0], labels, 3), r"features \(N, C\) and labels \(N,\), not \(5,\)"),
        ((x, labels, 2), "a probe of 2 classes takes labels from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            depth.fit_probe(*given)
    with pytest.raises(ValueError, match="ridge is 0: it is above zero"):
        depth.fit_probe(x, labels, 3, ridge=0)
