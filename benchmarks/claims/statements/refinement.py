"""Blocks of a stage refine one estimate: what they add, where it points, and what can be read off."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, claim, images, trained
from benchmarks.depth import spearman
from flaxarch.depth import probe_accuracy, refinement


def _measure(seed: int, places: Places, *, scale: Scale, depth: int, num_images: int) -> Measured:
    """Norm ratios, cosines with the negative gradient, and probes, over the blocks."""
    model = scale.preact(depth)
    net = trained(model, seed, places, scale)
    data = images(places, scale)
    ratio, cosine = (
        np.asarray(x, np.float64)
        for x in refinement(model, net.variables, *data.test_set(min(num_images, 1000)))
    )
    probes = probe_accuracy(model, net.variables, data.train_set(num_images), data.test_set(num_images))
    keep = np.isfinite(cosine)
    per_stage = len(ratio) // 3
    first = [ratio[i] / np.median(ratio[i : i + per_stage]) for i in range(0, len(ratio), per_stage)]
    return Measured(
        {
            "share of blocks that go down the gradient": float((cosine[keep] > 0).mean()),
            "share of the last stage's": float((cosine[-per_stage + 1 :] > 0).mean()),
            "norm ratio of a stage's first block over its median, least": float(min(first)),
            "rank correlation of probe accuracy and depth": spearman(np.arange(len(probes)), probes),
        },
        {
            "probe accuracy": list(probes),
            "norm ratio": list(ratio),
            "10 x cosine": list(10 * np.nan_to_num(cosine)),
        },
    )


def _draw(axes: Any, kept: Any) -> None:
    """The three, over depth; means over seeds."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for name in seeds[0]:
        axes.plot(np.mean([curves[name] for curves in seeds], axis=0), ".-", label=name)
    axes.axhline(0, color="black", linewidth=0.6)


_claim = partial(
    claim,
    statement="Blocks go down the loss's gradient, a stage's first block changes most, and what a linear "
    "probe reads gets better with depth.",
    source="Jastrzebski et al. 2018, Sec. 4 (cosine, norm ratio); Greff et al. 2017, Sec. 3",
    protocol="Pre-activation ResNet-{depth}. Probes are ridge regressions on pooled features of "
    "{num_images:,} training images, tested on as many.",
    measure=_measure,
    calibrated="all bounds.",
    x="block",
    y="share, ratio",
    first_x=0,
    draw=_draw,
)
_PROBES = Check("rank correlation of probe accuracy and depth", 0.9)
CLAIM = _claim(
    SMALL,
    (
        Check("share of blocks that go down the gradient", 0.7),
        Check("norm ratio of a stage's first block over its median, least", 1.5),
        _PROBES,
    ),
    seeds=3,
    depth=32,
    num_images=2000,
)
FULL = _claim(
    FULL_SCALE,
    (
        Check("share of the last stage's", 0.9),
        Check("norm ratio of a stage's first block over its median, least", 3.0),
        _PROBES,
    ),
    seeds=3,
    depth=110,
    num_images=10_000,
)
