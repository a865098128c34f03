"""More and more random blocks deleted from a trained residual network."""

from functools import partial

import jax
import numpy as np

from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, claim
from benchmarks.claims.statements._subject import subject
from benchmarks.depth import spearman
from flaxarch.depth import blocks, evaluate, keep_random


def _measure(
    seed: int, places: Places, *, scale: Scale, layers: int, most: int, draws: int, num_images: int
) -> Measured:
    """Mean errors with 0 to `most` blocks deleted."""
    net = subject(layers, seed, places, scale, num_images)
    n = len(blocks(net.model, net.images.shape[1:]))
    keys = jax.random.split(jax.random.key(seed), most)
    rows = [keep_random(key, n, n - k, draws) for k, key in enumerate(keys, start=1)]
    gates = np.vstack([np.ones((1, n), np.float32), *rows])
    errors = 100 * (1 - np.asarray(evaluate(*net, gates=gates).accuracy, np.float64))
    curve = np.append(errors[0], errors[1:].reshape(most, draws).mean(axis=1))
    return Measured(
        {
            "error": curve[0],
            "error with 10 blocks deleted": curve[10],
            "rank correlation of error and number": spearman(np.arange(most + 1), curve),
            "largest step": float(np.diff(curve).max()),
        },
        {"mean error": list(curve)},
    )


_claim = partial(
    claim,
    statement="The error of a residual network rises smoothly with the number of blocks that are deleted.",
    source="Veit et al. 2016, Sec. 4.2 and Fig. 5a",
    protocol="From 1 to {most} blocks of ResNet-{layers} are deleted, {draws} random choices of "
    "each number, on {num_images:,} test images. The paper deletes up to 20 of the 54 of ResNet-110. Steps "
    "are from a number to the next, in points.",
    measure=_measure,
    x="blocks deleted",
    y="error, %",
    first_x=0,
)
CLAIM = _claim(
    SMALL,
    (
        Check("rank correlation of error and number", low=0.9),
        Check("largest step", high=10.0),
    ),
    seeds=3,
    layers=56,
    most=10,
    draws=20,
    num_images=200,
    calibrated="both bounds; a step may be twice that of a network of twice the blocks.",
)
FULL = _claim(
    FULL_SCALE,
    (
        Check("rank correlation of error and number", low=0.95),
        Check("largest step", high=5.0),
        Check("error with 10 blocks deleted", high=25.0),
    ),
    seeds=5,
    layers=110,
    most=20,
    draws=100,
    num_images=10_000,
    calibrated="all bounds, for what the paper calls smooth.",
)
