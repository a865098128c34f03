"""Norms of convolutions: equal to those of their matrices, and bounds where they are to be bounds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flaxarch.depth.conv_norms import circular_norm, circular_singular_values, measured_norm, norm_bound


def kernel_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def circular_matrix(kernel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Of maps (height, width, C), entry by entry."""
    rows, columns, channels, features = kernel.shape
    matrix = np.zeros((height, width, features, height, width, channels))
    for i, j, y, x in np.ndindex(rows, columns, height, width):
        matrix[y, x, :, (y + i) % height, (x + j) % width] += kernel[i, j].T
    return matrix.reshape(height * width * features, -1)


def padded_matrix(kernel: np.ndarray, size: tuple[int, int], channels: int, **geometry: Any) -> np.ndarray:
    def conv(x: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, jnp.asarray(kernel), dimension_numbers=numbers, **geometry)

    with jax.enable_x64(True):
        basis = jnp.eye(size[0] * size[1] * channels, dtype=jnp.float64)
        return np.asarray(conv(basis.reshape(-1, *size, channels))).reshape(len(basis), -1).T


@pytest.mark.parametrize(("height", "width"), [(5, 6), (4, 5), (2, 3)])
def test_frequencies_give_the_singular_values_of_the_circular_convolutions_matrix(height: int, width: int):
    kernel = kernel_of(3, 3, 2, 3)
    found = np.sort(circular_singular_values(kernel, (height, width)).ravel())
    exact = np.sort(np.linalg.svd(circular_matrix(kernel, height, width), compute_uv=False))
    np.testing.assert_allclose(found, exact, rtol=1e-10)


GEOMETRIES: list[dict[str, Any]] = [
    {"window_strides": (1, 1), "padding": "SAME"},
    {"window_strides": (2, 2), "padding": ((1, 1), (0, 2))},
    {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (2, 1)},
    {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2},
]


IDS = ("same", "strided", "dilated", "grouped")
MARKS = {"same": pytest.mark.slow, "dilated": pytest.mark.slow}


@pytest.mark.parametrize(
    "geometry",
    [pytest.param(x, id=name, marks=MARKS.get(name, ())) for name, x in zip(IDS, GEOMETRIES, strict=True)],
)
def test_padded_norm_is_that_of_the_matrix_and_below_the_bound(geometry: dict[str, Any]):
    groups, dilation = geometry.get("feature_group_count", 1), geometry.get("rhs_dilation", (1, 1))
    kernel, size = kernel_of(3, 3, 2, 4), (6, 5)
    exact = np.linalg.norm(padded_matrix(kernel, size, 2 * groups, **geometry), 2)
    with jax.enable_x64(True):
        found = measured_norm(
            kernel,
            size,
            strides=geometry["window_strides"],
            padding=geometry["padding"],
            groups=groups,
            dilation=dilation,
        )
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    assert exact <= norm_bound(kernel, size, groups=groups, dilation=dilation) <= 3 * exact


def test_bound_of_a_pointwise_convolution_is_its_norm():
    kernel = kernel_of(1, 1, 4, 3)
    np.testing.assert_allclose(norm_bound(kernel, (5, 5)), np.linalg.norm(kernel[0, 0], 2))


def test_padded_convolution_may_exceed_the_circular_one_of_its_own_size():
    """So that its bound needs the padding: on one pixel with padding, all entries of a kernel are summed."""
    kernel = np.array([1.0, 1.0, -1.0]).reshape(3, 1, 1, 1)
    assert circular_norm(kernel, (2, 1)) < norm_bound(kernel, (2, 1))
    exact = np.linalg.norm(
        padded_matrix(kernel, (2, 1), 1, window_strides=(1, 1), padding=((2, 2), (0, 0))), 2
    )
    assert exact <= norm_bound(kernel, (2, 1)) + 1e-12
    assert exact > circular_norm(kernel, (2, 1))
