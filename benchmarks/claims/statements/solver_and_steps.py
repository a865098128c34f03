"""Trained with Euler's method: accuracy under other solvers and steps, by whether theta(t) is smooth."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, accuracy, claim, images, logits, trained
from benchmarks.claims.statements._ode import ode_resnet, with_statistics_of
from flaxarch.depth import EULER, MIDPOINT, RK4, b_spline, piecewise_constant

SOLVERS = {"Euler": EULER, "midpoint": MIDPOINT, "RK4": RK4}
FACTORS = (0.5, 1, 2, 4)  # of the number of steps
NUM_ESTIMATED = 2000  # training images that batch statistics are estimated on


def _measure(
    seed: int, places: Places, *, scale: Scale, num_steps: int, num_coefficients: int, num_updates: int
) -> Measured:
    """Accuracies of both networks by solver and steps."""
    data = images(places, scale)
    x, labels = data.test_set(2000)
    train_images = data.train_set(NUM_ESTIMATED)[0]
    values: dict[str, float] = {}
    curves: dict[str, list[float]] = {}
    for kind, basis in (("jumps", piecewise_constant), ("smooth", partial(b_spline, degree=2))):
        model = ode_resnet(scale, num_steps, num_steps / 2, basis=basis, num_coefficients=num_coefficients)
        net = trained(model, seed, places, scale, steps=num_updates)
        found: dict[tuple[str, float], float] = {}
        for name, solver in SOLVERS.items():
            for factor in FACTORS:
                other = model.clone(method=solver, stage_sizes=(round(factor * num_steps),) * 3)
                found[name, factor] = accuracy(logits(other, net.variables, x), labels)
            curves[f"{kind}, {name}"] = [found[name, factor] for factor in FACTORS]
        as_trained = found["Euler", 1]
        by_rk4 = model.clone(method=RK4)
        anew = with_statistics_of(by_rk4, net.variables, train_images)
        values[f"loss by RK4, {kind}, anew"] = as_trained - accuracy(logits(by_rk4, anew, x), labels)
        values[f"accuracy, {kind}"] = as_trained
        values[f"loss by RK4, {kind}"] = as_trained - found["RK4", 1]
        values[f"loss by half the steps, {kind}"] = as_trained - found["Euler", 0.5]
        finer = [found[key] for key in found if key[1] >= 1]
        values[f"largest loss with as many steps or more, {kind}"] = as_trained - min(finer)
    return Measured(values, curves)


def _draw(axes: Any, kept: Any) -> None:
    """Accuracy by the number of steps; means over seeds."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for name in seeds[0]:
        style = "o-" if name.startswith("smooth") else "s--"
        axes.plot(FACTORS, np.mean([curves[name] for curves in seeds], axis=0), style, label=name)
    axes.set_xscale("log", base=2)


_claim = partial(
    claim,
    statement="A network trained with Euler's method keeps its accuracy under other solvers and more steps "
    "where theta(t) is smooth.",
    source="Queiruga et al. 2020 (Continuous-in-depth neural networks), abstract; Ott et al. 2021",
    protocol="Two networks of three stages, {num_steps} steps of h = 1/2 and {num_coefficients} coefficients "
    "each: theta(t) is a spline of degree 2 (smooth), or piecewise constant (jumps), as the blocks of a "
    "ResNet. Batch statistics are interpolated in time, or, where it says so, those of "
    f"{NUM_ESTIMATED:,} training images (anew). {{num_updates:,}} updates, for which the rate goes "
    "through its cycle; solver and steps change afterwards, without further training. 2,000 test images; "
    "losses in points.",
    measure=_measure,
    calibrated="all bounds. Queiruga et al. train with RK4 and show constant accuracies.",
    x="number of steps, as a share of training's",
    y="test accuracy, %",
    draw=_draw,
)
_CHECKS = (
    Check("largest loss with as many steps or more, smooth", high=3.0),
    Check("loss by RK4, smooth", high=1.0),
    Check("loss by RK4, smooth, anew", high=1.0),
    Check("loss by half the steps, smooth", high=5.0),
)
CLAIM = _claim(SMALL, _CHECKS, seeds=3, num_steps=6, num_coefficients=3, num_updates=500)
FULL = _claim(
    FULL_SCALE,
    (*_CHECKS, Check("accuracy, smooth", 91.0)),
    seeds=3,
    num_steps=12,
    num_coefficients=6,
    num_updates=64_000,
)
