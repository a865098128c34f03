"""Jacobians of blocks in a row, without a matrix: eigenvalues, norms, and what their product does.

By products with the Jacobian and its transpose alone: Arnoldi's method for eigenvalues; Lanczos's for the
logarithmic norm, the largest eigenvalue of (J + J^T) / 2, and for the norm of the step I + h J; and for the
largest singular values of the product of all steps, orthogonal iteration, up and down the blocks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxarch.depth.flow import Flow
from flaxarch.depth.krylov import arnoldi, ritz

# (x (N, H, W, C), variables of a block) -> x_{i+1} - x_i = h f; no image sees another
Increment = Callable[[jax.Array, Any], jax.Array]


class Spectra(NamedTuple):
    """Of n blocks in a row at the states of N images; h is the blocks' step."""

    eigenvalues: np.ndarray  # (n, N, m) complex: of h J, those that m steps of Arnoldi's method show
    log_norm: np.ndarray  # (n, N): h mu(J)
    step_norm: np.ndarray  # (n, N): ||I + h J||, the most that the block makes a perturbation grow
    residuals: np.ndarray  # (n, N, 2): how near to them h mu and ||I + h J||^2 have a true eigenvalue
    log_growth: np.ndarray  # (n, N, k): ln of what each block multiplies the k most growing perturbations by

    @property
    def exponents(self) -> np.ndarray:
        """(N, k), falling: finite-time Lyapunov exponents per block, ln of the singular values over n."""
        return self.log_growth.mean(axis=0)


def spectra(
    increment: Increment,
    x: jax.Array,
    theta: Any,
    key: jax.Array,
    *,
    num_krylov: int = 24,
    num_exponents: int = 2,
    num_sweeps: int = 8,
) -> tuple[Spectra, jax.Array]:
    """The numbers of blocks x + increment(x, theta_i) that follow each other, and what the last one leaves.

    Args:
      increment: compiled once for all blocks, and again only for another function or another shape.
      x: (N, ...), what the first block reads.
      theta: the blocks' variables, stacked.
      key: draws the vectors that the methods begin with.
      num_krylov: products with J for eigenvalues, log-norm and norm each.
      num_exponents: perturbations whose growth is followed, k.
      num_sweeps: times that these go up and down the blocks, to become the most growing ones.

    Raises ValueError where a state is not finite, or a number of `num_krylov` or `num_exponents` below 1.
    """
    if min(num_krylov, num_exponents) < 1:
        raise ValueError("the products of Krylov's methods, and the exponents, are one at least")
    dims = math.prod(x.shape[1:])
    settings = {"num_krylov": min(num_krylov, dims), "num_exponents": min(num_exponents, dims)}
    found = _spectra(increment, x, theta, key, num_sweeps=num_sweeps, **settings)
    hessenberg, log_growth = jax.device_get(found[:2])
    is_finite = np.isfinite(hessenberg).reshape(len(hessenberg), -1).all(axis=1)
    if not is_finite.all():
        raise ValueError(f"what block {is_finite.argmin()} of the row reads, or its Jacobian, is not finite")
    symmetric = ritz(hessenberg[:, 1:], symmetric=True)
    log_norm, squared = symmetric.values[:, 0, :, 0], symmetric.values[:, 1, :, 0]
    return Spectra(
        ritz(hessenberg[:, 0]).values,
        log_norm,
        np.sqrt(np.maximum(squared, 0)),
        symmetric.residuals[..., 0].swapaxes(1, 2),
        log_growth,
    ), found[2]


@partial(jax.jit, static_argnames=("increment", "num_krylov", "num_exponents", "num_sweeps"))
def _spectra(
    increment: Increment,
    x: jax.Array,
    theta: Any,
    key: jax.Array,
    *,
    num_krylov: int,
    num_exponents: int,
    num_sweeps: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hessenberg matrices (n, 3, N, m + 1, m), growth (n, N, k), the last state."""
    krylov_key, growth_key = jax.random.split(key)
    flat = (len(x), math.prod(x.shape[1:]))
    start = jax.random.normal(krylov_key, (3, *flat), x.dtype)

    def block(x: jax.Array, theta: Any) -> tuple[jax.Array, Any]:
        forward, transposed = _products(increment, x, theta)

        def apply(v: jax.Array) -> jax.Array:
            """J, its symmetric part, and S^T S of the step S = I + J, of one vector each."""
            pushed = forward(v)
            stepped = v[2] + pushed[2]
            pulled = transposed(jnp.stack([v[1], stepped]))
            return jnp.stack([pushed[0], (pushed[1] + pulled[0]) / 2, stepped + pulled[1]])

        return x + increment(x, theta), (x, arnoldi(apply, start, num_krylov))

    end, (states, hessenberg) = lax.scan(block, x, theta)

    def push(q: jax.Array, at: Any) -> tuple[jax.Array, jax.Array]:
        return _orthonormal(q + _products(increment, *at)[0](q))

    def pull(q: jax.Array, at: Any) -> tuple[jax.Array, jax.Array]:
        return _orthonormal(q + _products(increment, *at)[1](q))

    def sweep(_: Any, q: jax.Array) -> jax.Array:
        q = lax.scan(push, q, (states, theta))[0]
        return lax.scan(pull, q, (states, theta), reverse=True)[0]

    q, _ = _orthonormal(jax.random.normal(growth_key, (num_exponents, *flat), x.dtype))
    q = lax.fori_loop(0, num_sweeps, sweep, q)
    _, growth = lax.scan(push, q, (states, theta))
    return hessenberg, growth, end


def _products(increment: Increment, x: jax.Array, theta: Any) -> tuple[Any, Any]:
    """Products of vectors (k, N, D) with the increment's Jacobian, and with its transpose.

    The one is the transpose of the other, as not all operations of the library have forward derivatives.
    """
    _, backward = jax.vjp(lambda x: increment(x, theta).astype(x.dtype), x)

    def transposed(u: jax.Array) -> jax.Array:
        return backward(u.reshape(x.shape))[0].reshape(u.shape)

    zeros = jnp.zeros((len(x), math.prod(x.shape[1:])), x.dtype)
    return jax.vmap(lambda v: jax.vjp(transposed, zeros)[1](v)[0]), jax.vmap(transposed)


def _orthonormal(q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Vectors (k, N, D), made orthonormal for each of N, and ln of what they were longer by, (N, k)."""
    q, r = jnp.linalg.qr(jnp.moveaxis(q, 0, -1))
    return jnp.moveaxis(q, -1, 0), jnp.log(abs(jnp.diagonal(r, axis1=-2, axis2=-1)))


@dataclass(frozen=True)
class _Step:
    """What a block adds to what it reads: equal for equal blocks, which one compiled function serves."""

    flow: Flow  # of one block

    def __call__(self, x: jax.Array, theta: Any) -> jax.Array:
        return self.flow.vector_field(jnp.zeros((), x.dtype), x, jax.tree.map(lambda leaf: leaf[None], theta))


def step_of(flow: Flow) -> Increment:
    """x_{i+1} - x_i of a block of the row, as a function of x_i and its variables."""
    return _Step(replace(flow, paths=("a block",), start=0, t1=1.0))
