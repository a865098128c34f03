"""Gradients of a stage by each adjoint and tolerance: error, time and memory."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims.claim import Check, Claim, Measured, Places
from flaxarch.depth import RK4, Flow, TwoStepMidpoint, legendre, solve, solve_by
from flaxarch.layers import TORCH
from flaxarch.models.ode_fields import Bias, Free, Parabolic

ADJOINTS = ("direct", "recursive_checkpoint", "backsolve")
TOLERANCES = (1e-2, 1e-4, 1e-6)
STEPS = (16, 32, 64, 128)
SHAPE, T1, MAX_STEPS = (8, 8, 8, 8), 1.0, 256


def _stage(field: Any, scale: float, seed: int) -> tuple[Flow, Any, jax.Array]:
    """A block as a flow to T = 1 with theta(t) of three coefficients in time, drawn; and x(0)."""
    block = field(SHAPE[-1], TORCH.conv(jnp.float64), Bias, act=jnp.tanh)
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=SHAPE))
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)

    def draw(leaf: Any) -> jax.Array:
        sizes = np.reshape([1.0, 0.5, 0.25], (3,) + (1,) * leaf.ndim)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim == 4 else 25.0
        return jnp.asarray(scale * sizes * rng.normal(size=(3, *leaf.shape)) / np.sqrt(fan_in))

    flow = Flow(block, ("block",), 0, T1, legendre)
    return flow, jax.tree.map(draw, shapes), x


def _gradient(end: Any, target: jax.Array) -> Any:
    return jax.jit(jax.grad(lambda theta, x: ((end(x, theta) - target) ** 2).sum()))


def _error(found: Any, expected: Any) -> float:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    squares = [(float(((a - b) ** 2).sum()), float((b**2).sum())) for a, b in pairs]
    return float(np.sqrt(sum(a for a, _ in squares) / sum(b for _, b in squares)))


def _cost(gradient: Any, theta: Any, x: jax.Array) -> tuple[float, float]:
    """Seconds, the least of three runs, and MiB beside what it reads and gives."""
    compiled = gradient.lower(theta, x).compile()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(compiled(theta, x))
        seconds.append(time.perf_counter() - start)
    return min(seconds), compiled.memory_analysis().temp_size_in_bytes / 2**20


def measure(seed: int, places: Places) -> Measured:
    """All in float64, so that errors are those of the methods."""
    del places
    values: dict[str, float] = {}
    curves: dict[str, list[float]] = {}
    with jax.enable_x64(True):
        for kind, field, scale in (("free", Free, 1.5), ("contracting", Parabolic, 3.0)):
            flow, theta, x = _stage(field, scale, seed)
            target = jnp.asarray(np.random.default_rng(seed + 1000).normal(size=SHAPE))

            def exactly(x: jax.Array, theta: Any, flow: Flow = flow) -> jax.Array:
                return solve(flow.vector_field, x, theta, flow.times(1024), RK4)

            expected = _gradient(exactly, target)(theta, x)
            for adjoint in ADJOINTS:
                curve = []
                for tolerance in TOLERANCES:
                    end = _by_diffrax(flow, "tsit5", adjoint, tolerance=tolerance, max_steps=MAX_STEPS)
                    gradient = _gradient(end, target)
                    curve.append(_error(gradient(theta, x), expected))
                    name = f"{adjoint}, {kind}, tolerance {tolerance:g}"
                    values[f"error, {name}"] = curve[-1]
                    values[f"seconds, {name}"], values[f"MiB, {name}"] = _cost(gradient, theta, x)
                curves[f"{adjoint}, {kind}"] = curve
        flow, theta, x = _stage(Free, 1.5, seed)
        target = jnp.asarray(np.random.default_rng(seed + 1000).normal(size=SHAPE))
        for solver in ("euler", "heun"):
            errors = []
            for num_steps in STEPS:
                direct, back = (
                    _gradient(_by_diffrax(flow, solver, adjoint, num_steps=num_steps), target)(theta, x)
                    for adjoint in ("direct", "backsolve")
                )
                errors.append(_error(back, direct))
            values[f"order of backsolve's error, {solver}"] = float(np.log2(errors[-2] / errors[-1]))

        def midpoint(x: jax.Array, theta: Any, reversible: bool) -> jax.Array:
            times = flow.times(128)
            return solve(flow.vector_field, x, theta, times, TwoStepMidpoint(), reversible=reversible)

        for words, reversible in (("reversible midpoint, 128 steps", True), ("midpoint, 128 steps", False)):
            gradient = _gradient(partial(midpoint, reversible=reversible), target)
            values[f"seconds, {words}"], values[f"MiB, {words}"] = _cost(gradient, theta, x)
        kept, found = (
            _gradient(partial(midpoint, reversible=x), target)(theta, x_) for x, x_ in ((False, x), (True, x))
        )
        values["difference of the reversible midpoint's gradients"] = _error(found, kept)
    least = min(TOLERANCES)
    values["memory of backsolve over direct"] = (
        values[f"MiB, backsolve, free, tolerance {least:g}"]
        / values[f"MiB, direct, free, tolerance {least:g}"]
    )
    values["checkpointed less direct error"] = abs(
        values[f"error, recursive_checkpoint, free, tolerance {least:g}"]
        - values[f"error, direct, free, tolerance {least:g}"]
    )
    return Measured(values, curves)


def _by_diffrax(flow: Flow, solver: str, adjoint: Any, **options: Any) -> Any:
    return lambda x, theta: solve_by(flow, x, theta, solver, adjoint=adjoint, **options).x


def _draw(axes: Any, kept: Any) -> None:
    """Error by tolerance; means over seeds."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for name in seeds[0]:
        style = "s--" if name.endswith("contracting") else "o-"
        axes.plot(TOLERANCES, np.mean([curves[name] for curves in seeds], axis=0), style, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")


CLAIM = Claim(
    "Backpropagation through a solver, with checkpoints or by steps undone, has the solver's gradient; the "
    "adjoint equation solved backwards takes least memory and errs, most where states contract.",
    "Gholami et al. 2019; Sander et al. 2022 (Do residual neural networks discretize neural ODEs?), abstract",
    f"A stage of {SHAPE[-1]} features on maps of {SHAPE[1]}x{SHAPE[2]}, {SHAPE[0]} images, tanh and biases, "
    "T = 1, theta(t) a polynomial of degree 2 with drawn coefficients; free, of two convolutions, or "
    "contracting, parabolic with kernels of three times the usual size. Float64. The loss is the squared "
    "distance to a drawn target; errors are of the coefficients' gradient, relative to that of RK4 with "
    "1,024 steps. Tsit5 by tolerances, and equal steps for orders, where the error is against "
    "backpropagation through the same steps. Seconds and MiB of the compiled gradient are kept.",
    measure,
    (
        Check("checkpointed less direct error", high=1e-9),
        Check("error, direct, free, tolerance 1e-06", high=1e-4),
        Check("difference of the reversible midpoint's gradients", high=1e-9),
        Check("order of backsolve's error, euler", 0.8, 1.2),
        Check("order of backsolve's error, heun", 1.7, 2.3),
        Check("memory of backsolve over direct", high=0.25),
        Check(
            "error, backsolve, contracting, tolerance 0.01",
            low=0.0,
            minus="error, direct, contracting, tolerance 0.01",
        ),
    ),
    seeds=3,
    calibrated="all bounds but those of the orders, which are 1 and 2 in Sander et al.",
    x="tolerance",
    y="error of the gradient, relative",
    draw=_draw,
)
