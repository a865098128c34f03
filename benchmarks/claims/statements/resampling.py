"""Trained networks of equations at twice, four times and half their depth, without further training."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, accuracy, claim, images, logits, trained
from benchmarks.claims.statements._ode import ode_resnet, with_statistics_of
from flaxarch.depth import b_spline, piecewise_constant
from flaxarch.models.ode_resampling import resampled

FACTORS = (0.5, 1, 2, 4)  # of the number of steps
NUM_ESTIMATED = 2000  # training images that batch statistics are estimated on


def _measure(
    seed: int, places: Places, *, scale: Scale, num_steps: int, num_coefficients: int, num_updates: int
) -> Measured:
    """Accuracies by the number of steps, with statistics interpolated in time, and estimated anew."""
    data = images(places, scale)
    x, labels = data.test_set(2000)
    train_images = data.train_set(NUM_ESTIMATED)[0]
    values: dict[str, float] = {}
    curves: dict[str, list[float]] = {}
    for kind, basis in (("jumps", piecewise_constant), ("smooth", partial(b_spline, degree=2))):
        model = ode_resnet(scale, num_steps, num_steps / 2, basis=basis, num_coefficients=num_coefficients)
        net = trained(model, seed, places, scale, steps=num_updates)
        for way in ("interpolated", "anew"):
            found = []
            for factor in FACTORS:
                other, variables = resampled(model, net.variables, (round(factor * num_steps),) * 3)
                if way == "anew" and factor != 1:
                    variables = with_statistics_of(other, variables, train_images)
                found.append(accuracy(logits(other, variables, x), labels))
            half, same, *finer = found
            values[f"loss by half the blocks, {kind}, {way}"] = same - half
            values[f"largest loss by more blocks, {kind}, {way}"] = same - min(finer)
            curves[f"{kind}, {way}"] = found
        values[f"accuracy, {kind}"] = same
    return Measured(values, curves)


def _draw(axes: Any, kept: Any) -> None:
    """Accuracy by the number of blocks; means over seeds."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for name in seeds[0]:
        style = "o-" if name.endswith("anew") else "s--"
        axes.plot(FACTORS, np.mean([curves[name] for curves in seeds], axis=0), style, label=name)
    axes.set_xscale("log", base=2)


_claim = partial(
    claim,
    statement="A trained network of equations runs at half its depth for a point of accuracy, and at twice "
    "and four times its depth as well, once its batch statistics are estimated anew.",
    source="Queiruga et al. 2021 (Stateful ODE-Nets using basis function expansions), abstract; Chang et al. "
    "2018 (Multi-level residual networks from dynamical systems view), Sec. 4",
    protocol="The two networks of the claim on solvers and steps: three stages of {num_steps} blocks to T = "
    "{num_steps} / 2, {num_coefficients} coefficients each. At half, twice and four times the blocks, "
    "statistics are those of the blocks nearest in time, or their means (interpolated), or those of "
    f"{NUM_ESTIMATED:,} training images (anew). No parameter is trained. {{num_updates:,}} updates; 2,000 "
    "test images; losses in points.",
    measure=_measure,
    calibrated="all bounds, before the run. Queiruga et al. halve a network for 0.3 points.",
    x="number of blocks, as a share of training's",
    y="test accuracy, %",
    draw=_draw,
)
_CHECKS = tuple(
    check
    for kind in ("jumps", "smooth")
    for check in (
        Check(f"loss by half the blocks, {kind}, anew", high=1.0),
        Check(f"largest loss by more blocks, {kind}, anew", high=3.0),
    )
)
CLAIM = _claim(SMALL, _CHECKS, seeds=3, num_steps=6, num_coefficients=3, num_updates=500)
FULL = _claim(FULL_SCALE, _CHECKS, seeds=3, num_steps=12, num_coefficients=6, num_updates=64_000)
