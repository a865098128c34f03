"""Certified bounds: never exceeded, exact where they can be, and refused where there is none."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flaxarch.depth.conv_norms import norm_bound
from flaxarch.depth.lipschitz_bounds import lipschitz
from tests.depth.nets import SHAPE, random_variables, tiny_preact, tiny_resnet, tiny_vgg

NETWORKS = {"pre-activation": tiny_preact(stage_sizes=(2,))}
MORE = {"pools": tiny_vgg((1, 1)), "post-activation": tiny_resnet(20)}


@partial(jax.jit, static_argnums=0)
def ratios(fn: Callable[..., jax.Array], variables: Any, x: jax.Array, d: jax.Array) -> Any:
    """Of pairs (n, H, W, C), and along the direction that the network stretches most at the first image."""
    before, after = (jax.vmap(lambda x: fn(variables, x[None])[0])(y) for y in (x, x + d))
    v, at = d[:1], partial(fn, variables)
    _, pull = jax.vjp(at, x[:1])

    def stretch(_: Any, v: jax.Array) -> jax.Array:
        (v,) = pull(jax.jvp(at, (x[:1],), (v,))[1])
        return v / jnp.linalg.norm(v)

    direction = jax.lax.fori_loop(0, 10, stretch, v)
    norms = [jnp.linalg.norm(y.reshape(len(y), -1), axis=1) for y in (after - before, d)]
    return norms[0] / norms[1], jnp.linalg.norm(jax.jvp(at, (x[:1],), (direction,))[1])


@pytest.mark.parametrize(
    "model",
    [
        *(pytest.param(model, id=name) for name, model in NETWORKS.items()),
        *(pytest.param(model, id=name, marks=pytest.mark.slow) for name, model in MORE.items()),
    ],
)
def test_no_pair_of_images_exceeds_a_networks_bound(model: Any):
    variables = random_variables(model)
    constant, obstacle = lipschitz(partial(model.apply, variables, train=False), SHAPE)
    assert not obstacle
    x, d, size = (jax.random.normal(jax.random.key(i), (100, *SHAPE)) for i in range(3))
    d = d * 10 ** size[:, :1, :1, :1]
    of_pairs, steepest = ratios(partial(model.apply, train=False), variables, x, d)
    assert 0 < of_pairs.max() < steepest <= constant < math.inf


def test_batch_norm_is_in_the_kernel_before_its_norm_is_taken():
    class ConvNorm(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Conv(5, (3, 3), use_bias=False, name="conv")(x)
            return nn.BatchNorm(True, epsilon=0.0, name="bn")(x)

    shapes = jax.eval_shape(ConvNorm().init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 2, x.shape).astype(np.float32), shapes)
    scale = variables["params"]["bn"]["scale"] / np.sqrt(variables["batch_stats"]["bn"]["var"])
    kernel = variables["params"]["conv"]["kernel"]
    model: Any = ConvNorm()
    found = lipschitz(partial(model.apply, variables), SHAPE).constant
    np.testing.assert_allclose(found, norm_bound(kernel * scale, SHAPE[:2]), rtol=1e-5)
    assert found < 0.999 * norm_bound(kernel, SHAPE[:2]) * scale.max()


def test_bounds_of_single_operations_are_what_they_stretch_most():
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    cases: list[tuple[Callable[[jax.Array], jax.Array], float]] = [
        (lambda x: x @ matrix, float(np.linalg.norm(matrix, 2))),
        (lambda x: x.mean(axis=(1, 2)), 1 / 8),  # of 64 pixels that all change alike
        (lambda x: nn.max_pool(x, (3, 3), (2, 2), padding="SAME"), 2.0),  # in four windows at most
        (lambda x: nn.avg_pool(x, (2, 2), (2, 2)), 0.5),
        (lambda x: jnp.concatenate([x, 2 * x], axis=-1), 5**0.5),
        (lambda x: x + nn.relu(-3 * x + 1), 4.0),
        (lambda x: jnp.tanh(x) - nn.sigmoid(x), 1.25),
        (lambda x: jnp.repeat(x[:, :1], 4, axis=1).reshape(1, -1) / 5, 0.4),
        (lambda x: jax.lax.scan(lambda c, w: (c * w, None), x, jnp.array([2.0, -3.0]))[0], 6.0),
        (lambda x: jnp.zeros_like(x), 0.0),
    ]
    for fn, expected in cases:
        np.testing.assert_allclose(lipschitz(fn, SHAPE).constant, expected, rtol=1e-6)


def test_function_without_a_bound_names_the_operation():
    for fn, name in (
        (lambda x: x * x, "mul"),
        (lambda x: nn.relu(jnp.exp(x)) + x, "exp"),
        (lambda x: x * nn.sigmoid(x), "mul"),
        (lambda x: jnp.round(x), "round"),
        (lambda x: x.astype(jnp.int32).astype(jnp.float32), "convert_element_type"),
    ):
        assert lipschitz(fn, SHAPE) == (math.inf, name)


class Gradient(nn.Module):
    """x - h K^T s(N(K x)), as a gradient's step of a convex function."""

    step: float
    sign: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], 5))

        def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

        y = nn.BatchNorm(True, use_scale=False, name="bn")(conv(x, kernel))
        y = conv(nn.relu(self.sign * y), kernel[::-1, ::-1].swapaxes(2, 3))
        return x - self.step * y


def test_gradient_step_of_a_convex_function_is_seen_not_to_expand():
    rng = np.random.default_rng(0)
    var = np.array([0.5, 1, 2, 1, 1], np.float32)
    variables: Any = {
        "params": {"kernel": rng.normal(size=(3, 3, 3, 5)).astype(np.float32), "bn": {"bias": 0 * var}},
        "batch_stats": {"bn": {"mean": 0 * var, "var": var}},
    }

    def constant(step: float, sign: int = 1) -> float:
        model: Any = Gradient(step, sign)
        return lipschitz(partial(model.apply, variables), SHAPE).constant

    scale = (variables["batch_stats"]["bn"]["var"] + 1e-5) ** -0.5
    squared = norm_bound(variables["params"]["kernel"] * np.sqrt(scale)[None, None, None], SHAPE[:2]) ** 2
    assert constant(1.99 / squared) == 1
    np.testing.assert_allclose(constant(2.5 / squared), 1.5, rtol=1e-5)
    np.testing.assert_allclose(constant(-1 / squared), 2, rtol=1e-5)
    assert constant(1 / squared, sign=-1) > 2  # of a function that is not convex
