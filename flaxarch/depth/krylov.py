"""Outermost eigenvalues of linear maps that are given as functions: Arnoldi 1951, Lanczos 1950.

Saad 2011, Numerical Methods for Large Eigenvalue Problems, Sec. 6.2 and 6.6. Lanczos's method is Arnoldi's
of a symmetric map; here both keep the whole basis orthogonal, so that no eigenvalue comes twice.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_HIGHEST = lax.Precision.HIGHEST


def arnoldi(apply: Callable[[jax.Array], jax.Array], start: jax.Array, num_steps: int) -> jax.Array:
    """(..., num_steps + 1, num_steps): Hessenberg matrices V^T A V of maps A, in bases V that `start` begins.

    Args:
      apply: the maps, of all leading axes at once: (..., D) -> (..., D), linear.
      start: (..., D), not zero; of a random one each simple eigenvalue has a share.
      num_steps: applications; D are enough.
    """

    def normalised(w: jax.Array) -> tuple[jax.Array, jax.Array]:
        norm = jnp.linalg.norm(w, axis=-1)
        return w / jnp.where(norm > 0, norm, 1)[..., None], norm

    def step(j: Any, carry: Any) -> Any:
        basis, found = carry
        w, column = apply(basis[j]), jnp.zeros_like(found[j])
        for _ in range(2):  # orthogonal to rounding only after a second time
            shares = jnp.einsum("k...d,...d->k...", basis, w, precision=_HIGHEST)
            w = w - jnp.einsum("k...,k...d->...d", shares, basis, precision=_HIGHEST)
            column = column + shares
        w, norm = normalised(w)
        return basis.at[j + 1].set(w), found.at[j].set(column.at[j + 1].set(norm))

    basis = jnp.zeros((num_steps + 1, *start.shape), start.dtype).at[0].set(normalised(start)[0])
    found = jnp.zeros((num_steps, num_steps + 1, *start.shape[:-1]), start.dtype)
    _, found = lax.fori_loop(0, num_steps, step, (basis, found))
    return jnp.moveaxis(found, (1, 0), (-2, -1))


class Ritz(NamedTuple):
    """Eigenvalues as far as Krylov's space shows them; NaN where the space ended before."""

    values: np.ndarray  # (..., num_steps): complex, or real and falling for symmetric maps
    residuals: np.ndarray  # (..., num_steps): ||A x - value x|| of its vector x, ||x|| = 1


def ritz(hessenberg: np.ndarray, *, symmetric: bool = False) -> Ritz:
    """Ritz values of maps from their Hessenberg matrices (..., m + 1, m).

    Of a symmetric map, they lie between its eigenvalues, and one of these is within the residual of each.
    Of any other, extremal ones are found first; the residual is that of an eigenvalue of a map as near.
    """
    given = np.asarray(hessenberg, np.float64)
    *shape, _, m = given.shape
    flat = given.reshape(-1, m + 1, m)
    values = np.full((len(flat), m), np.nan, float if symmetric else complex)
    residuals = np.full((len(flat), m), np.nan)
    sizes = _sizes(flat, np.finfo(np.asarray(hessenberg).dtype).eps)
    for size in np.unique(sizes):
        chosen = sizes == size
        square, below = flat[chosen, :size, :size], flat[chosen, size, size - 1]
        if symmetric:
            found, vectors = np.linalg.eigh((square + square.swapaxes(1, 2)) / 2)
            found, vectors = found[:, ::-1], vectors[:, :, ::-1]
        else:
            found, vectors = np.linalg.eig(square)
        values[chosen, :size] = found
        residuals[chosen, :size] = below[:, None] * abs(vectors[:, -1])
    return Ritz(values.reshape(*shape, m), residuals.reshape(*shape, m))


def _sizes(matrices: np.ndarray, eps: float) -> np.ndarray:
    """(n,): dimension of each Krylov space: where what is left of a vector is rounding, it is whole."""
    below = np.diagonal(matrices, -1, 1, 2)
    scale = np.linalg.norm(matrices, axis=(1, 2))
    is_end = below <= 100 * eps * scale[:, None]
    return np.where(is_end.any(axis=1), is_end.argmax(axis=1) + 1, matrices.shape[2])
