"""How many blocks stochastic depth runs."""

import jax
import numpy as np

from benchmarks.claims.claim import Check, Claim, Measured, Places
from flaxarch.residual import linear_survival_probs

BLOCKS, DRAWS = 54, 4096


def measure(seed: int, places: Places) -> Measured:
    """Blocks kept, on average over the coins of 4,096 steps."""
    del places
    probs = linear_survival_probs(BLOCKS, 0.5)
    kept = jax.random.bernoulli(jax.random.key(seed), probs, (DRAWS, BLOCKS))
    return Measured(
        {
            "expected depth": float(probs.sum()),
            "mean depth drawn": float(kept.sum(axis=1).mean()),
            "share of steps with all blocks": float(kept.all(axis=1).mean()),
        },
        {"chance to be kept": list(map(float, np.asarray(probs)))},
    )


CLAIM = Claim(
    "Stochastic depth with survival from 1 to 0.5 runs (3 L − 1) / 4 of L blocks on average: 40.25 of 54.",
    "Huang et al. 2016, Sec. 3 (expected network depth)",
    f"The coins of the library's residual networks, {DRAWS:,} steps for each seed.",
    measure,
    (
        Check("expected depth", 40.25 - 1e-4, 40.25 + 1e-4),
        Check("mean depth drawn", 40.15, 40.35),
        Check("share of steps with all blocks", high=0.001),
    ),
    seeds=5,
    calibrated="0.1 blocks about the mean drawn, two standard errors of one seed.",
    x="block",
    y="survival probability",
)
