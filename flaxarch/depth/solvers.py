"""Explicit Runge-Kutta methods of fixed steps, for x' = f(t, x, theta)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from flaxarch.depth.bases import before

# (t, x, theta) -> dx/dt, in the arguments' order of diffrax, whose `args` are `theta`
VectorField = Callable[[jax.Array, jax.Array, Any], jax.Array]


class Solver(NamedTuple):
    """A method's tableau (Butcher 1963): stage i is at time t + c_i h and x + h sum_j a_ij k_j."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]  # of the step: x + h sum_i b_i k_i
    c: tuple[float, ...]


EULER = Solver(((),), (1,), (0,))
MIDPOINT = Solver(((), (1 / 2,)), (0, 1), (0, 1 / 2))
HEUN = Solver(((), (1,)), (1 / 2, 1 / 2), (0, 1))
RK4 = Solver(((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0, 1 / 2, 1 / 2, 1))


def solve(
    vector_field: VectorField, x: jax.Array, theta: Any, times: ArrayLike, solver: Solver = EULER
) -> jax.Array:
    """x at times[-1], from `x` at times[0], by a step between each two of `times`, (num_steps + 1,).

    A stage at the end of its step sees what is piecewise constant in time as it is before it jumps, so that
    steps that begin where theta(t) jumps keep the solver's order. Times are of `x`'s type, or float32 where
    that is shorter.
    """
    ts = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))

    def step(x: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        (t0, t1), slopes = ends, []
        h = t1 - t0
        for row, c in zip(solver.a, solver.c, strict=True):
            t = before(t1) if c == 1 else t0 + c * h
            slopes.append(vector_field(t, _moved(x, h, row, slopes), theta))
        return _moved(x, h, solver.b, slopes), None

    return lax.scan(step, x, (ts[:-1], ts[1:]))[0]


def _moved(x: jax.Array, h: jax.Array, weights: tuple[float, ...], slopes: list[jax.Array]) -> jax.Array:
    """x + h sum_i weights_i slopes_i."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = x + (weight * h).astype(x.dtype) * slope
    return x
