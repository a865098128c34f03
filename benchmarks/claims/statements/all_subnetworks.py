"""All 512 subnetworks of ResNet-20: what a block is worth, and how far blocks depend on each other."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, claim
from benchmarks.claims.statements._subject import subject
from flaxarch.depth import shapley, subnetworks, subsets, variance_by_order


def _measure(seed: int, places: Places, *, scale: Scale, num_images: int) -> Measured:
    """Accuracies in percent; shares of variance by order of interaction; Shapley values in points."""
    scores = subnetworks(*subject(20, seed, places, scale, num_images))
    accuracy = 100 * np.asarray(scores.accuracy, np.float64)
    n = len(accuracy).bit_length() - 1
    kept = subsets(n).sum(axis=1)
    means = [float(accuracy[kept == k].mean()) for k in range(n + 1)]
    orders, worth = variance_by_order(accuracy), shapley(accuracy)
    return Measured(
        {
            "accuracy": accuracy[-1],
            "accuracy without any block": accuracy[0],
            "smallest step of mean accuracy": float(np.diff(means).min()),
            "variance due to orders 1 and 2": float(orders[1:3].sum()),
            "variance due to order 1": float(orders[1]),
            "variance of the loss due to orders 1 and 2": float(variance_by_order(scores.loss)[1:3].sum()),
            "smallest Shapley value": float(worth.min()),
            "Shapley values less what all blocks bring": float(worth.sum() - (accuracy[-1] - accuracy[0])),
        },
        {"mean accuracy": means, "variance by order": list(orders), "Shapley value": list(worth)},
    )


def _draw(axes: Any, kept: Any) -> None:
    """Accuracy by number of blocks, variance explained up to an order, and each block's worth, in percent."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]

    def mean(name: str) -> np.ndarray:
        return np.mean([seed[name] for seed in seeds], axis=0)

    worth = mean("Shapley value")
    axes.bar(range(1, len(worth) + 1), worth, color="lightgrey", label="Shapley value of block x, points")
    axes.plot(mean("mean accuracy"), "o-", label="mean accuracy with x blocks")
    explained = 100 * mean("variance by order").cumsum()
    axes.plot(explained, "s--", label="variance by interactions of up to x blocks")
    axes.set_xticks(range(len(explained)))


_claim = partial(
    claim,
    checks=(
        Check("smallest step of mean accuracy", low=-1.0),
        Check("variance due to orders 1 and 2", low=0.8),
        Check("Shapley values less what all blocks bring", -1e-6, 1e-6),
    ),
    statement="The paths of a residual network depend little on each other: accuracy rises with each block "
    "that is kept, and interactions of two blocks at most explain most of it.",
    source='Veit et al. 2016, Sec. 4 (paths "do not strongly depend on each other"), of which the paper has '
    "samples",
    protocol="All 2^9 subnetworks of ResNet-20 on {num_images:,} test images. Accuracy as a function of the "
    "nine gates is written as a sum over sets of blocks (Walsh-Hadamard); a set's squared coefficient is its "
    "share of the variance over subnetworks. Shapley values are exact.",
    measure=_measure,
    calibrated="0.8, and that a step may fall by a point, a standard error of guessing at 1,000 images.",
    x="blocks",
    y="%",
    draw=_draw,
)
CLAIM = _claim(SMALL, seeds=3, num_images=1000)
FULL = _claim(FULL_SCALE, seeds=5, num_images=10_000)
