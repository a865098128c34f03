"""Solvers of fixed steps, for x' = f(t, x, theta): Runge-Kutta methods, and those that keep a memory."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from flaxarch.ode.bases import before
from flaxarch.ode.multistep import Multistep
from flaxarch.ode.reversible import reversible_scan

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
    vector_field: VectorField,
    x: jax.Array,
    theta: Any,
    times: ArrayLike,
    solver: Solver | Multistep = EULER,
    *,
    reversible: bool = False,
) -> jax.Array:
    """x at times[-1], from `x` at times[0], by a step between each two of `times`, (num_steps + 1,).

    A stage at the end of its step sees what is piecewise constant in time as it is before it jumps, so that
    steps that begin where theta(t) jumps keep the solver's order. Times are of `x`'s type, or float32 where
    that is shorter. A method with a memory takes steps of one length, and with `reversible` gradients that
    keep no state but the last: then `vector_field` closes over no traced array. Raises ValueError for other
    steps and solvers.
    """
    ts = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))
    if not isinstance(solver, Solver):
        return _solve_multistep(vector_field, x, theta, times, ts, solver, reversible=reversible)
    if reversible:
        raise ValueError("a Runge-Kutta step cannot be undone: take a reversible method with a memory")

    def step(x: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        (t0, t1), slopes = ends, []
        h = t1 - t0
        for row, c in zip(solver.a, solver.c, strict=True):
            t = before(t1) if c == 1 else t0 + c * h
            slopes.append(vector_field(t, combined(x, h, row, slopes), theta))
        return combined(x, h, solver.b, slopes), None

    return lax.scan(step, x, (ts[:-1], ts[1:]))[0]


def _solve_multistep(
    vector_field: VectorField,
    x: jax.Array,
    theta: Any,
    times: ArrayLike,
    ts: jax.Array,
    method: Multistep,
    *,
    reversible: bool,
) -> jax.Array:
    if not isinstance(times, jax.Array):
        steps = np.diff(np.asarray(times))
        if np.ptp(steps) > 1e-4 * abs(steps).max():
            raise ValueError(f"{method} takes steps of one length, not from {min(steps):g} to {max(steps):g}")
    h = ((ts[-1] - ts[0]) / (len(ts) - 1)).astype(x.dtype)
    steps = ts[:-1], jnp.full(len(ts) - 1, h).at[0].multiply(method.first)
    if not reversible:

        def step(state: Any, inputs: Any) -> tuple[Any, None]:
            t, h = inputs
            return method.step(state, vector_field(t, state[0], theta), h), None

        return lax.scan(step, (x, method.start(x)), steps)[0][0]
    if not method.is_reversible:
        raise ValueError(f"{method} is not reversible")
    # theta goes through the loop as a part of the state, which no step changes
    step, undo = partial(_step, vector_field, method), partial(_undo, vector_field, method)
    state, _ = reversible_scan(step, undo, (x, method.start(x), theta), steps)
    return state[0]


def _step(vector_field: VectorField, method: Multistep, state: Any, inputs: Any) -> tuple[Any, None]:
    (x, memory, theta), (t, h) = state, inputs
    return (*method.step((x, memory), vector_field(t, x, theta), h), theta), None


def _undo(vector_field: VectorField, method: Multistep, state: Any, inputs: Any) -> Any:
    (*pair, theta), (t, h) = state, inputs
    x, memory = pair
    return *method.undo((x, memory), lambda x: vector_field(t, x, theta), h), theta


def combined(x: jax.Array, h: Any, weights: tuple[float, ...], slopes: list[jax.Array]) -> jax.Array:
    """x + h sum_i weights_i slopes_i; h in a dtype of its own, or a number."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = x + jnp.asarray(weight * h, x.dtype) * slope
    return x
