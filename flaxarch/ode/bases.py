"""Parameters as functions of depth: theta(t) = sum_k phi_k(t) theta_k, by few coefficients or by many.

Haber & Ruthotto 2017, https://arxiv.org/abs/1705.03341, read the parameters of alike residual blocks as
samples of functions of time. Queiruga et al. 2021, https://arxiv.org/abs/2106.10820, expand these, batch
statistics included, in a basis, by which a network is made deeper, shallower or smaller without data.

A basis is a function (s, num) -> (..., num): its `num` functions at the places s, (...), of the unit
interval. Block i of N is at s = i / N, where Euler's method reads it. Trees have one more axis than a block's
variables, the first one: blocks in a stacked tree, as `flaxarch.depth.Flow.stack` makes it, and basis
functions in a tree of coefficients. All functions are pure, of arrays of JAX or, outside of what is traced,
NumPy; numbers and sizes are static.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Basis = Callable[[Any, int], Any]

# Times differ from what they stand for by a few roundings: see `before`
_ROUNDINGS = 4


def piecewise_constant(s: Any, num: int) -> Any:
    """1 on the k-th of `num` equal intervals, closed on their left: a network of `num` blocks, as it is."""
    s, xp = _places(s)
    eps = float(xp.finfo(s.dtype).eps)
    interval = xp.clip(xp.floor(s * (num * (1 + _ROUNDINGS * eps))), 0, num - 1)
    return (interval[..., None] == _row(s, range(num))).astype(s.dtype)


def piecewise_linear(s: Any, num: int) -> Any:
    """Hats over k / num, so that the coefficients are the values at the places of `num` blocks.

    Behind the last block its value stays; `b_spline` of degree 1 goes on to a coefficient at 1.
    """
    s, xp = _places(s)
    u = xp.clip(s * num, 0, num - 1)
    return xp.maximum(1 - xp.abs(u[..., None] - _row(s, range(num))), 0)


def legendre(s: Any, num: int) -> Any:
    """Legendre's polynomials of degree 0 to num - 1, shifted: orthogonal on [0, 1], and 1 at its end."""
    s, xp = _places(s)
    z = 2 * s - 1
    found = [xp.ones_like(z), z]
    for n in range(1, num - 1):
        found.append(((2 * n + 1) * z * found[n] - n * found[n - 1]) / (n + 1))
    return xp.stack(found[:num], axis=-1)


def fourier(s: Any, num: int) -> Any:
    """1, cos 2 pi s, sin 2 pi s, cos 4 pi s, ...: for what ends as it began."""
    s, xp = _places(s)
    angle = 2 * np.pi * s[..., None] * _row(s, [(k + 1) // 2 for k in range(num)])
    return xp.where(_row(s, [k % 2 == 0 and k > 0 for k in range(num)]), xp.sin(angle), xp.cos(angle))


def b_spline(s: Any, num: int, *, degree: int = 3) -> Any:
    """B-splines over equal intervals (de Boor's recursion), whose first and last coefficient are the ends.

    They are nowhere negative and add up to 1. There are num - degree intervals: raises ValueError where that
    is none.
    """
    if num <= degree or degree < 1:
        raise ValueError(f"B-splines of degree {degree} >= 1 are {degree + 1} at least, not {num}")
    s, xp = _places(s)
    s = xp.clip(s, 0, 1)[..., None]
    knots = np.concatenate([np.zeros(degree), np.linspace(0, 1, num - degree + 1), np.ones(degree)])
    interval = xp.clip(xp.floor(s * (num - degree)), 0, num - degree - 1) + degree
    values = (interval == _row(s[..., 0], range(num + degree))).astype(s.dtype)
    for d in range(1, degree + 1):
        width = knots[d:] - knots[:-d]
        slope = np.divide(1, width, out=np.zeros_like(width), where=width > 0)  # no interval, no spline
        start, end, slope = (_row(s[..., 0], x) for x in (knots[:-d], knots[d:], slope))
        rising, falling = (s - start) * slope, (end - s) * slope
        values = rising[..., :-1] * values[..., :-1] + falling[..., 1:] * values[..., 1:]
    return values


def before(t: Any) -> Any:
    """A time t > 0 from its left: what is piecewise constant has not jumped there yet.

    Times that rounding leaves a little below a jump count as it; this one does not.
    """
    return t * (1 - 4 * _ROUNDINGS * float(jnp.finfo(t.dtype).eps))


def project(stacked: Any, num_coefficients: int, basis: Basis) -> Any:
    """Coefficients of the least-squares fit to the blocks' variables, leaf by leaf.

    Of a variance the standard deviation is fitted, and in the coefficients "std" stands for "var", so that no
    fit makes it negative. Raises ValueError where the blocks do not determine so many coefficients.
    """
    return _times(_projection(_length(stacked), num_coefficients, basis), _deviations(stacked))


def theta_at(coefficients: Any, s: Any, basis: Basis = piecewise_constant) -> Any:
    """A block's variables at any place, which may be traced, of [0, 1]; those at places (n,) are stacked."""
    return _variances(_times(basis(s, _length(coefficients)), coefficients))


def interpolate(
    stacked: Any,
    num_blocks: int,
    basis: Basis = piecewise_constant,
    *,
    num_coefficients: int | None = None,
) -> Any:
    """The variables of `num_blocks` blocks that are at the places of their own on the same theta(t).

    `num_coefficients` are those of the fit in between; None: the lesser of the two numbers of blocks, so that
    blocks made more and then fewer again are what they were. The step, which is 1 / num_blocks of the time,
    is left to the caller: see `flaxarch.depth.resample`.
    """
    num = _length(stacked)
    fit = _projection(num, min(num, num_blocks) if num_coefficients is None else num_coefficients, basis)
    matrix = basis(np.arange(num_blocks) / num_blocks, len(fit)) @ fit
    return _variances(_times(matrix, _deviations(stacked)))


def _projection(num_blocks: int, num_coefficients: int, basis: Basis) -> np.ndarray:
    """(num_coefficients, num_blocks), in float64."""
    is_possible = 1 <= num_coefficients <= num_blocks
    matrix = basis(np.arange(num_blocks) / num_blocks, num_coefficients) if is_possible else np.zeros((1, 1))
    if not np.linalg.cond(matrix) < 1e6:
        name = getattr(basis, "func", basis).__name__
        raise ValueError(
            f"{num_blocks} blocks do not determine {num_coefficients} coefficients of {name}: take fewer"
        )
    # a basis whose coefficients are the blocks' values leaves them as they are, bit for bit
    return np.linalg.inv(matrix) if num_coefficients == num_blocks else np.linalg.pinv(matrix)


def _times(matrix: Any, tree: Any) -> Any:
    """The matrix on the first axis of all leaves: by NumPy, which compiles nothing, where all is NumPy's."""

    def product(x: Any) -> Any:
        if isinstance(matrix, jax.Array) or isinstance(x, jax.Array):
            return jnp.tensordot(jnp.asarray(matrix, x.dtype), x, axes=1, precision=lax.Precision.HIGHEST)
        return np.tensordot(matrix.astype(x.dtype), x, axes=1)

    return jax.tree.map(product, tree)


def _length(tree: Any) -> int:
    lengths = {len(x) for x in jax.tree.leaves(tree)}
    if len(lengths) != 1:
        raise ValueError(f"a stacked tree has leaves of one length, not of {sorted(lengths) or 'none'}")
    return lengths.pop()


def _deviations(tree: Any) -> Any:
    """Batch statistics by standard deviations, whose square is no negative variance."""
    return _renamed(tree, "var", "std", lambda x: x**0.5)


def _variances(tree: Any) -> Any:
    return _renamed(tree, "std", "var", lambda x: x * x)


def _renamed(tree: Any, old: str, new: str, function: Callable[[Any], Any]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if set(tree) == {"mean", old}:
        return {"mean": tree["mean"], new: function(tree[old])}
    return {name: _renamed(branch, old, new, function) for name, branch in tree.items()}


def _places(s: Any) -> tuple[Any, Any]:
    """Places as an array, and the module that computes with it: NumPy's float64 where JAX has none."""
    s = s if isinstance(s, jax.Array) else np.asarray(s, getattr(s, "dtype", float))
    return s, s.__array_namespace__()


def _row(s: Any, values: Any) -> np.ndarray:
    """Values, one for each basis function, for arithmetic with s[..., None]."""
    return np.asarray(values).reshape((1,) * s.ndim + (-1,))
