"""Gradients at nearby inputs: alike or unrelated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxarch.analysis import shattering

WIDTH, NUM_INITS = 48, 200


def test_slope_along_a_line_is_the_functions_derivative():
    def fn(x: jax.Array) -> jax.Array:
        return (x**3).sum(axis=(1, 2))

    start, stop = jnp.full((2, 3), -1.0), jnp.full((2, 3), 1.0)
    t = np.linspace(-1, 1, 9)
    expected = 6 * 3 * t**2 * 2  # six entries, each moving by 2
    np.testing.assert_allclose(shattering.gradient_on_line(fn, start, stop, 9), expected, rtol=1e-5)


def test_white_noise_has_no_autocorrelation_and_brown_noise_much():
    noise = np.random.default_rng(0).normal(size=(200, 256))
    white = shattering.autocorrelation(noise, 15).mean(axis=0)
    brown = shattering.autocorrelation(noise.cumsum(axis=1), 15).mean(axis=0)
    assert white[0] == brown[0] == 1
    assert np.abs(white[1:]).max() < 0.02
    assert brown[15] > 0.5
    assert (np.diff(brown) < 0).all()


def standardised(x: jax.Array) -> jax.Array:
    """By the statistics of a batch, which count as constants."""
    mean, deviation = jax.lax.stop_gradient((x.mean(axis=0), x.std(axis=0)))
    return (x - mean[None]) / deviation[None]


def plain(x: jax.Array, weights: jax.Array) -> jax.Array:
    return jax.nn.relu(standardised(x @ weights))


def residual(x: jax.Array, weights: jax.Array) -> jax.Array:
    return x + jax.nn.relu(x) @ weights


def normed_residual(x: jax.Array, weights: jax.Array) -> jax.Array:
    return x + jax.nn.relu(standardised(x)) @ weights


def correlation(block: Any, depth: int) -> float:
    """Of gradients at two random inputs out of a batch, over random networks."""

    rng = np.random.default_rng(depth)
    inputs = rng.normal(size=(NUM_INITS, WIDTH, WIDTH)).astype(np.float32)
    weights = rng.normal(0, np.sqrt(2 / WIDTH), (NUM_INITS, depth, WIDTH, WIDTH)).astype(np.float32)
    outs = rng.normal(size=(NUM_INITS, WIDTH)).astype(np.float32)

    def gradients(x: jax.Array, weights: jax.Array, out: jax.Array) -> jax.Array:
        def fn(x: jax.Array) -> jax.Array:
            for w in weights:
                x = block(x, w)
            return (x @ out).sum()

        return jax.grad(fn)(x)[:2]

    found = jax.jit(jax.vmap(gradients))(inputs, weights, outs)
    return float(shattering.gradient_correlation(found)[0, 1])


def test_correlation_of_plain_networks_halves_with_every_layer():
    for depth in (1, 2):
        expected = shattering.plain_correlation(depth)
        np.testing.assert_allclose(correlation(plain, depth), expected, atol=0.03)


def test_correlation_of_residual_networks_keeps_three_quarters_a_block():
    for depth in (1, 2):
        expected = shattering.residual_correlation(depth, batch_norm=False)
        np.testing.assert_allclose(correlation(residual, depth), expected, atol=0.04)


def test_correlation_of_residual_networks_with_batch_norm_falls_like_the_root_of_depth():
    shallow, deep = (correlation(normed_residual, depth) for depth in (1, 4))
    theory = shattering.residual_correlation(np.array([1, 4]), batch_norm=True)
    np.testing.assert_allclose(deep / shallow, theory[1] / theory[0], atol=0.12)


def test_requests_that_have_no_answer_are_one_sentence():
    with pytest.raises(ValueError, match="gradients at 4 points have no lag 4"):
        shattering.autocorrelation(np.arange(4), 4)
    with pytest.raises(ValueError, match="the same at all points"):
        shattering.autocorrelation(np.ones(4), 1)
    with pytest.raises(ValueError, match=r"gradients are \(num_inits, num_points, \.\.\.\)"):
        shattering.gradient_correlation(np.ones(4))
