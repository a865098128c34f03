"""The airbench networks: whitening, identities at the start, the head, gates, sizes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.models.airbench import Airbench, dirac, whitening_kernel
from tests.models.shapes import map_shapes

TINY = Airbench((5, 6, 7), depth=3, whiten_features=16, num_classes=4)


@pytest.fixture(scope="module")
def tiny() -> Any:
    images = jax.random.normal(jax.random.key(0), (3, 9, 11, 2))
    params, batch_stats = jax.jit(flaxarch.functional(TINY).init)(jax.random.key(1), images)
    return params, batch_stats, images


def test_whitened_patches_are_uncorrelated_with_second_moment_one():
    images = np.cumsum(np.random.default_rng(0).normal(size=(40, 9, 8, 3)), axis=1)  # neighbours are alike
    kernel = whitening_kernel(images, epsilon=1e-9)
    assert kernel.shape == (2, 2, 3, 24)
    x: Any = jax.lax.conv_general_dilated(
        jnp.float32(images), jnp.asarray(kernel), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    flat = np.asarray(x, np.float64).reshape(-1, 24)
    moments = flat.T @ flat / len(flat)
    np.testing.assert_allclose(moments[:12, :12], np.eye(12), atol=2e-3)
    np.testing.assert_allclose(flat[:, 12:], -flat[:, :12], atol=1e-5)


def test_whitening_damps_directions_below_epsilon_and_orders_by_variance():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, 6, 6, 1)) * np.linspace(0.01, 1, 50)[:, None, None, None]
    norms = np.linalg.norm(whitening_kernel(images, epsilon=0.5).reshape(4, 8), axis=0)
    assert (np.diff(norms[:4]) > 0).all()  # the largest eigenvalue first: divided by the most
    assert norms.max() < 1 / np.sqrt(0.5)


@pytest.mark.parametrize(("inputs", "features"), [(3, 8), (8, 8), (8, 3)])
def test_convolutions_start_as_identities_of_their_first_inputs(inputs: int, features: int):
    kernel = dirac(jax.random.key(0), (3, 3, inputs, features))
    x = jax.random.normal(jax.random.key(1), (2, 5, 4, inputs))
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    kept = min(inputs, features)
    np.testing.assert_allclose(y[..., :kept], x[..., :kept], atol=1e-6)
    if features > inputs:
        rest = np.asarray(kernel)[..., inputs:]
        assert (
            abs(rest.std() * np.sqrt(9 * inputs) - 1 / np.sqrt(3)) < 0.05
        )  # uniform within ±1 / sqrt(fan_in)


def test_norms_have_no_scale_and_the_whitening_layer_has_a_bias(tiny: Any):
    params, batch_stats, _ = tiny
    assert set(params["group1"]["norm1"]) == {"bias"}
    assert set(batch_stats["group1"]["norm1"]) == {"mean", "var"}
    assert params["whiten"]["kernel"].shape == (2, 2, 2, 16)
    assert set(params["whiten"]) == {"kernel", "bias"}
    assert set(params["fc"]) == {"kernel"}


def test_gates_of_zero_take_the_last_two_convolutions_away(tiny: Any):
    params, batch_stats, images = tiny
    apply = jax.jit(flaxarch.functional(TINY).apply, static_argnames="train")
    closed, _ = apply(params, batch_stats, images, train=False, gates=jnp.zeros(3))
    whole, _ = apply(params, batch_stats, images, train=False)
    again, _ = apply(params, batch_stats, images, train=False, gates=jnp.ones(3))
    np.testing.assert_allclose(again, whole, rtol=1e-6)
    assert not np.allclose(closed, whole)
    other = jax.tree.map(jnp.array, params)
    for group in ("group1", "group2", "group3"):
        other[group]["conv2"]["kernel"] += 1.0
    unmoved, _ = apply(other, batch_stats, images, train=False, gates=jnp.zeros(3))
    np.testing.assert_array_equal(unmoved, closed)


def test_maps_are_those_of_the_paper():
    assert map_shapes(flaxarch.create("airbench94"), 32, 32, 3) == {
        2: (15, 15, 64),
        4: (7, 7, 256),
        8: (3, 3, 256),
    }


def test_gates_and_small_images_are_refused():
    images = jnp.ones((1, 32, 32, 3))
    with pytest.raises(ValueError, match="takes neither gates nor survival_prob"):
        jax.eval_shape(
            lambda x: flaxarch.create("airbench94").init(
                jax.random.key(0), x, train=False, gates=jnp.ones(3)
            ),
            images,
        )
    with pytest.raises(ValueError, match="at least 9x9 pixels, not 8x9"):
        jax.eval_shape(
            lambda x: flaxarch.create("airbench94").init(jax.random.key(0), x, train=False),
            images[:, :8, :9],
        )
