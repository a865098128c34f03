"""Eigenvalues without a matrix: equal to those of the matrix."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxarch.depth.krylov import arnoldi, ritz


def ritz_of(matrices: np.ndarray, num_steps: int, start: np.ndarray, **more: Any) -> Any:
    with jax.enable_x64(True):
        given = jnp.asarray(matrices)
        apply = jax.jit(
            lambda start: arnoldi(lambda v: jnp.einsum("...ij,...j->...i", given, v), start, num_steps)
        )
        return ritz(np.asarray(apply(jnp.asarray(start))), **more)


def test_as_many_steps_as_dimensions_give_all_eigenvalues_of_each_matrix():
    rng = np.random.default_rng(0)
    matrices, start = rng.normal(size=(2, 3, 6, 6)), rng.normal(size=(2, 3, 6))
    found = ritz_of(matrices, 6, start)
    np.testing.assert_allclose(np.sort_complex(found.values), np.sort_complex(np.linalg.eigvals(matrices)))
    assert found.residuals.max() < 1e-12


def test_symmetric_maps_have_real_values_within_the_residual_of_an_eigenvalue():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(40, 40))
    matrix += matrix.T
    found, exact = ritz_of(matrix, 12, rng.normal(size=40), symmetric=True), np.linalg.eigvalsh(matrix)
    assert (np.diff(found.values) < 0).all()
    assert exact[0] <= found.values[-1] <= found.values[0] <= exact[-1]
    distances = abs(found.values[:, None] - exact).min(axis=1)
    assert (distances <= found.residuals + 1e-12).all()
    assert abs(found.values[0] - exact[-1]) < 0.05 * exact[-1]


def test_space_that_ends_early_shows_no_eigenvalue_that_is_not_there():
    """Of a matrix of rank two, the space of any vector has three dimensions: with 0, and no more zeros."""
    rng = np.random.default_rng(2)
    low_rank = rng.normal(size=(9, 2)) @ rng.normal(size=(2, 9)) - 2 * np.eye(9)
    full = rng.normal(size=(9, 9))
    found = ritz_of(np.stack([low_rank, full]), 9, rng.normal(size=(2, 9)))
    kept = found.values[0, ~np.isnan(found.values[0])]
    assert len(kept) == 3
    assert min(abs(kept + 2)) < 1e-10
    for value in kept:
        assert abs(np.linalg.eigvals(low_rank) - value).min() < 1e-10
    assert not np.isnan(found.values[1]).any()
