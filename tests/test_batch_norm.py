"""Batch norm in one pass over the features, beside `nn.BatchNorm`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxarch.layers import BatchNorm

FIELDS: Any = {"use_running_average": False, "momentum": 0.9, "epsilon": 1e-5}
NORM = BatchNorm(**FIELDS, dtype=jnp.float32)


def with_running_mean(mean: float, features: int = 3) -> Any:
    """Variables of a norm whose features had this mean until now."""
    ones = jnp.ones(features)
    stats = {"mean": mean * ones, "var": ones}
    return {"params": {"scale": 1.5 * ones, "bias": 0.5 * ones}, "batch_stats": stats}


def outcome(norm: Any, variables: Any, x: jax.Array) -> Any:
    """Output, running statistics, and the gradient of a function of the output."""
    weights = jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

    def loss(params: Any, x: jax.Array) -> Any:
        y, moved = norm.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return (weights * y**2).sum(), (y, moved["batch_stats"])

    return jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)


def test_output_statistics_and_gradients_are_those_of_two_passes_in_float64():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(2.0, 3.0, (4, 5, 6, 3)))
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), with_running_mean(1.0))
        ours = outcome(BatchNorm(**FIELDS, dtype=jnp.float64), variables, x)
        theirs = outcome(nn.BatchNorm(**FIELDS, dtype=jnp.float64, use_fast_variance=False), variables, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), ours, theirs)


def test_variance_keeps_its_digits_where_the_mean_is_far_above_it():
    x = jax.random.normal(jax.random.key(0), (64, 8, 8, 3)) + 1000.0
    exact = np.asarray(x, np.float64).var(axis=(0, 1, 2))

    def error(norm: Any) -> float:
        _, moved = norm.apply(with_running_mean(999.0), x, mutable=["batch_stats"])
        var = (np.asarray(moved["batch_stats"]["var"], np.float64) - 0.9) / 0.1
        return float(np.abs(var / exact - 1).max())

    assert error(NORM) < 1e-4
    assert error(nn.BatchNorm(**FIELDS)) > 1e-2


def test_constant_features_become_the_bias_with_finite_gradients():
    x = jnp.full((2, 4, 4, 3), 0.1)
    gradients, (y, stats) = outcome(NORM, with_running_mean(0.3), x)
    np.testing.assert_allclose(y, 0.5, atol=1e-3)
    assert np.all(stats["var"] >= 0.9)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_bfloat16_features_have_statistics_in_float32():
    x = jax.random.normal(jax.random.key(0), (64, 8, 8, 3), jnp.bfloat16)
    norm: Any = BatchNorm(**FIELDS, dtype=jnp.bfloat16)
    _, (y, stats) = outcome(norm, with_running_mean(0.0), x)
    assert y.dtype == jnp.bfloat16
    assert stats["mean"].dtype == jnp.float32
    np.testing.assert_allclose(10 * stats["mean"], np.asarray(x, np.float32).mean((0, 1, 2)), atol=1e-6)


def test_interceptors_see_a_norm_once():
    seen = []

    def count(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        seen.append(type(context.module).__name__)
        return method(*args, **kwargs)

    with nn.intercept_methods(count):
        NORM.apply(with_running_mean(0.0), jnp.ones((1, 2, 2, 3)), mutable=["batch_stats"])
    assert seen == ["BatchNorm"]
