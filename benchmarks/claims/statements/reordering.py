"""Blocks of a trained residual network that change places."""

from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, claim
from benchmarks.claims.statements._subject import subject
from benchmarks.depth import spearman
from flaxarch.depth import blocks, evaluate, kendall_tau, swap_random

SWAPS = (1, 2, 3, 4, 6, 9, 13, 20)


def _measure(
    seed: int, places: Places, *, scale: Scale, layers: int, draws: int, num_images: int
) -> Measured:
    """Errors of random orders, and their rank correlation with the order that was trained."""
    net = subject(layers, seed, places, scale, num_images)
    found = blocks(net.model, net.images.shape[1:])
    keys = jax.random.split(jax.random.key(seed), len(SWAPS))
    drawn = [swap_random(key, found, swaps, draws) for key, swaps in zip(keys, SWAPS, strict=True)]
    orders = np.vstack([np.arange(len(found)), *drawn])
    errors = 100 * (1 - np.asarray(evaluate(*net, orders=orders).accuracy, np.float64))
    whole, error, tau = float(errors[0]), errors[1:], kendall_tau(orders[1:])
    by_number = [x.reshape(len(SWAPS), draws).mean(axis=1) for x in (1 - tau, error)]
    near = float(error[tau >= 0.95].mean())
    return Measured(
        {
            "error": whole,
            "rank correlation of error and 1 − τ, over numbers of swaps": spearman(*by_number),
            "rank correlation of error and 1 − τ, over orders": spearman(1 - tau, error),
            "mean error at τ ≥ 0.95": near,
            "mean damage at τ ≥ 0.95": near - whole,
        },
        {"τ": list(tau), "error": list(error)},
    )


def _draw(axes: Any, kept: Any) -> None:
    """Each order, and the whole network at τ = 1."""
    for number, seed in kept["seeds"].items():
        tau, error = (np.array(seed["curves"][name]) for name in ("τ", "error"))
        points = axes.scatter(tau, error, s=6, alpha=0.5, label=f"seed {number}")
        axes.plot(1, seed["values"]["error"], "*", markersize=10, color=points.get_facecolor()[0], alpha=1)
    axes.invert_xaxis()
    axes.set_ylim(0, 100)


_claim = partial(
    claim,
    statement="The error of a residual network rises smoothly as its blocks are put into another order.",
    source="Veit et al. 2016, Sec. 4.3 and Fig. 5b",
    protocol=f"{', '.join(map(str, SWAPS[:-1]))} and {SWAPS[-1]} random swaps of two blocks of "
    "ResNet-{layers} that are alike, {draws} random orders of each number, on {num_images:,} test images. "
    "Kendall's τ is 1 for the order that was trained; it is over all blocks, with those that are like no "
    "other. The paper's network is ResNet-110.",
    measure=_measure,
    calibrated="all bounds, for what the paper calls smooth.",
    x="Kendall's τ of the order",
    y="error, %",
    draw=_draw,
)
CLAIM = _claim(
    SMALL,
    (
        Check("rank correlation of error and 1 − τ, over numbers of swaps", low=0.9),
        Check("rank correlation of error and 1 − τ, over orders", low=0.7),
        Check("mean damage at τ ≥ 0.95", high=15.0),
    ),
    seeds=3,
    layers=56,
    draws=20,
    num_images=200,
)
FULL = _claim(
    FULL_SCALE,
    (
        Check("rank correlation of error and 1 − τ, over numbers of swaps", low=0.95),
        Check("rank correlation of error and 1 − τ, over orders", low=0.7),
        Check("mean error at τ ≥ 0.95", high=15.0),
    ),
    seeds=5,
    layers=110,
    draws=100,
    num_images=10_000,
)
