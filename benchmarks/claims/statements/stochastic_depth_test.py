"""Branches scaled at test, and blocks deleted, after training with stochastic depth."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, images
from benchmarks.claims.statements._stochastic import LAST, pair
from flaxarch.depth import deletable, evaluate
from flaxarch.residual import linear_survival_probs


def _measure(seed: int, places: Places, *, scale: Scale, depth: int, num_images: int) -> Measured:
    """Errors with branches scaled by their chances and not, and with the last blocks deleted."""
    x, labels = images(places, scale).test_set(num_images)
    nets = pair(depth, seed, places, scale)
    n = len(deletable(nets.model, x.shape[1:]))
    third = n // 3
    probs = np.asarray(linear_survival_probs(n, LAST))
    kept = np.tri(third + 1, n, n - third, dtype=np.float32)[::-1]  # all blocks, all but the last, ...

    def errors(variables: Any, gates: np.ndarray) -> np.ndarray:
        scores = evaluate(nets.model, variables, x, labels, gates=gates)
        return 100 * (1 - np.asarray(scores.accuracy, np.float64))

    stochastic, constant = errors(nets.stochastic, kept * probs), errors(nets.constant, kept)
    unscaled = errors(nets.stochastic, kept[:1])
    return Measured(
        {
            "error, stochastic": stochastic[0],
            "error, stochastic, not scaled": unscaled[0],
            "error, constant": constant[0],
            "damage, stochastic": stochastic[-1] - stochastic[0],
            "half the damage, constant": (constant[-1] - constant[0]) / 2,
        },
        {"stochastic depth": list(stochastic), "constant depth": list(constant)},
    )


_claim = partial(
    Claim,
    "After stochastic depth branches want to be scaled by their chances, and the last third of the blocks "
    "may go for half the damage.",
    "Huang et al. 2016, Sec. 3 (testing); Veit et al. 2016, Sec. 4.4 (resilience)",
    needs=("cifar10",),
    x="blocks deleted from the end",
    y="error, %",
    first_x=0,
)
CLAIM = _claim(
    protocol=f"ResNet-56, the last block's chance 0.5, against one of constant depth. {SMALL.in_words}",
    measure=partial(_measure, scale=SMALL, depth=56, num_images=2000),
    checks=(
        Check("error, stochastic, not scaled", 1.0, minus="error, stochastic"),
        Check("damage, stochastic", high=0.0, minus="half the damage, constant"),
    ),
    seeds=3,
    calibrated="one point, and the half.",
)
FULL = _claim(
    protocol=f"ResNet-110, the last block's chance 0.5. {FULL_SCALE.in_words} The paper trains "
    "for 500 epochs.",
    measure=partial(_measure, scale=FULL_SCALE, depth=110, num_images=10_000),
    checks=(
        Check("error, stochastic, not scaled", 1.0, minus="error, stochastic"),
        Check("error, constant", 0.4, minus="error, stochastic"),
        Check("damage, stochastic", high=0.0, minus="half the damage, constant"),
    ),
    seeds=5,
    tier="G",
    calibrated="one point, and the half; of the 1.16 points that the paper gains in 500 epochs, 0.4 in 164.",
)
