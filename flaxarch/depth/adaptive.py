"""Any solver and any adjoint of diffrax on a stage: Kidger 2022, https://docs.kidger.site/diffrax.

diffrax is the optional extra `ode`, and is imported when a solver is asked for. Gradients come by one of
three adjoints: "direct", through all that the solver computes; "recursive_checkpoint", the same by less
memory and more time (Stumm & Walther 2010); and "backsolve", the equation of Chen et al. 2018,
https://arxiv.org/abs/1806.07366, which is solved backwards and keeps no state, but is only as exact as x is
found again, which for an equation that contracts it is not (Gholami et al. 2019,
https://arxiv.org/abs/1902.10298).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from flaxarch.depth.flow import Flow
from flaxarch.ode.bases import piecewise_constant, theta_at

Adjoint = Literal["direct", "recursive_checkpoint", "backsolve"]

# diffrax's names; those of the second row tell their own error, which steps of chosen length need
FIXED = {"euler": "Euler", "implicit_euler": "ImplicitEuler", "leapfrog_midpoint": "LeapfrogMidpoint"}
ADAPTIVE = {
    "heun": "Heun",
    "midpoint": "Midpoint",
    "ralston": "Ralston",
    "bosh3": "Bosh3",
    "tsit5": "Tsit5",
    "dopri5": "Dopri5",
    "dopri8": "Dopri8",
    "kvaerno3": "Kvaerno3",
    "kvaerno5": "Kvaerno5",
}
IMPLICIT = ("implicit_euler", "kvaerno3", "kvaerno5")


class Solved(NamedTuple):
    """Where a solver has come, and what it took."""

    x: jax.Array  # x(t1), (N, H, W, C)
    num_steps: jax.Array  # with those that an adaptive one took back


def solve_by(
    flow: Flow,
    x: jax.Array,
    theta: Any,
    solver: Any = "tsit5",
    *,
    num_steps: int | None = None,
    tolerance: float | None = None,
    adjoint: Adjoint = "recursive_checkpoint",
    max_steps: int = 4096,
) -> Solved:
    """x(t1) of a flow by a solver of diffrax, in equal steps or in steps of chosen length.

    >>> def end(flow, x, theta):
    ...     return solve_by(flow, x, theta, "dopri5", tolerance=1e-4).x
    >>> logits = apply_flows(model, variables, images, end)

    Where theta(t) jumps from block to block, each block is solved for itself, if the steps are not equal or
    go into the blocks evenly: no step is across a jump. An implicit solver's equations are solved by Newton's
    method and GMRES, which need no matrix.

    Args:
      flow: as `flaxarch.depth.flows` gives it, or with another basis or time.
      x: x(0), (N, H, W, C).
      theta: the flow's coefficients.
      solver: a name, of FIXED or ADAPTIVE, or any solver of diffrax.
      num_steps: equal steps from 0 to t1.
      tolerance: in their place, the error of a step, relative and absolute, by which its length is chosen.
      adjoint: how gradients come.
      max_steps: after which an adaptive solver gives up, by an error when the result is computed; in each
        block, where they are solved one by one.
    """
    diffrax = _diffrax()
    if (num_steps is None) == (tolerance is None):
        raise ValueError("steps are equal or chosen: give num_steps or tolerance")
    if isinstance(solver, str) and solver in FIXED and tolerance is not None:
        raise ValueError(f"{solver} does not tell its error: give num_steps, or take {', '.join(ADAPTIVE)}")
    given = _solver(diffrax, solver, tolerance)
    jumps = flow.basis is piecewise_constant and flow.num_blocks > 1
    if jumps and (num_steps is None or num_steps % flow.num_blocks == 0):
        num = None if num_steps is None else num_steps // flow.num_blocks
        h = flow.t1 / flow.num_blocks

        def through_block(x: jax.Array, theta: Any) -> tuple[jax.Array, jax.Array]:
            def vector_field(t: jax.Array, x: jax.Array, theta: Any) -> jax.Array:
                del t
                return flow.slope(x, theta_at(theta, jnp.zeros(()), piecewise_constant))

            alone = jax.tree.map(lambda leaf: leaf[None], theta)
            return _solve(diffrax, vector_field, x, alone, h, given, num, tolerance, adjoint, max_steps)

        x, taken = lax.scan(through_block, x, theta)
        return Solved(x, taken.sum())
    found = _solve(
        diffrax, flow.vector_field, x, theta, flow.t1, given, num_steps, tolerance, adjoint, max_steps
    )
    return Solved(*found)


def _solve(
    diffrax: Any,
    vector_field: Callable[..., jax.Array],
    x: jax.Array,
    theta: Any,
    t1: float,
    solver: Any,
    num_steps: int | None,
    tolerance: float | None,
    adjoint: Adjoint,
    max_steps: int,
) -> tuple[jax.Array, jax.Array]:
    is_constant = num_steps is not None
    control = diffrax.ConstantStepSize() if is_constant else diffrax.PIDController(tolerance, tolerance)
    max_steps = num_steps + 1 if num_steps is not None else max_steps  # rounding may leave a last, short one
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),
        solver,
        t0=0.0,
        t1=t1,
        dt0=t1 / num_steps if num_steps is not None else None,
        y0=x,
        args=theta,
        stepsize_controller=control,
        adjoint=_adjoint(diffrax, adjoint),
        max_steps=max_steps,
    )
    return solution.ys[0], solution.stats["num_steps"]


def _adjoint(diffrax: Any, name: Adjoint) -> Any:
    kinds = {
        "direct": diffrax.DirectAdjoint,
        "recursive_checkpoint": diffrax.RecursiveCheckpointAdjoint,
        "backsolve": diffrax.BacksolveAdjoint,
    }
    if name not in kinds:
        raise ValueError(f"there is no adjoint {name!r}: there are {', '.join(kinds)}")
    return kinds[name]()


def _solver(diffrax: Any, solver: Any, tolerance: float | None) -> Any:
    if not isinstance(solver, str):
        return solver
    names = {**FIXED, **ADAPTIVE}
    if solver not in names:
        raise ValueError(f"there is no solver {solver!r}: there are {', '.join(sorted(names))}")
    made = getattr(diffrax, names[solver])
    if solver not in IMPLICIT:
        return made()
    import lineax
    import optimistix

    tolerance = 1e-4 if tolerance is None else tolerance
    gmres = lineax.GMRES(rtol=tolerance / 10, atol=tolerance / 10, restart=20)
    return made(root_finder=optimistix.Newton(rtol=tolerance, atol=tolerance, linear_solver=gmres))


def _diffrax() -> Any:
    try:
        import diffrax
    except ImportError as error:
        raise ImportError(
            "solvers of diffrax need diffrax: pip install 'flaxarch[ode]', or take flaxarch.depth.solve"
        ) from error
    return diffrax
