"""Auxiliary heads as exits: images that are easy leave early."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, claim, images, trained
from flaxarch.depth import choose_threshold, exit_logits, exit_macs, leave, stage_ends, tradeoff, with_exits

GIVEN_UP = 0.5  # points of accuracy, on the images that the threshold is chosen on


def _measure(seed: int, places: Places, *, scale: Scale, depth: int) -> Measured:
    """Mean work and accuracy on one half of the test images, with the threshold chosen on the other."""
    network = scale.resnet(depth)
    shape = (scale.size, scale.size, 3)
    model = with_exits(network, after=stage_ends(network, shape))
    net = trained(model, seed, places, scale)
    x, labels = images(places, scale).test_set()
    logits, labels = np.asarray(exit_logits(model, net.variables, x)), np.asarray(labels)
    macs, half = exit_macs(model, shape), len(labels) // 2
    chosen_on = (logits[:, :half], labels[:half], macs)
    wanted = (logits[-1, :half].argmax(-1) == labels[:half]).mean() - GIVEN_UP / 100
    threshold = choose_threshold(*chosen_on, accuracy=wanted)
    left = leave(jnp.asarray(logits[:, half:]), threshold)
    given = logits[left, np.arange(half, len(labels))].argmax(-1)
    right = (logits[:, half:].argmax(-1) == labels[half:]).any(axis=0)
    curve = tradeoff(*chosen_on)
    order = np.linspace(0, len(curve.mean_macs) - 1, 50).astype(int)
    return Measured(
        {
            "times less work": float(macs[-1] / macs[left].mean()),
            "accuracy, with exits": 100 * float((given == labels[half:]).mean()),
            "accuracy, last exit": 100 * float((logits[-1, half:].argmax(-1) == labels[half:]).mean()),
            "accuracy, first exit": 100 * float((logits[0, half:].argmax(-1) == labels[half:]).mean()),
            "accuracy, best exit of each image": 100 * float(right.mean()),
        },
        {
            "mean MACs, share": list(np.asarray(curve.mean_macs)[order] / macs[-1]),
            "accuracy, %": list(100 * np.asarray(curve.accuracy)[order]),
        },
    )


def _draw(axes: Any, kept: Any) -> None:
    """Accuracy against work as the threshold moves."""
    for seed, entry in kept["seeds"].items():
        curves = entry["curves"]
        axes.plot(curves["mean MACs, share"], curves["accuracy, %"], ".-", label=f"seed {seed}")


_claim = partial(
    claim,
    statement="Heads at the ends of a ResNet's stages let easy images leave early, at little cost in "
    "accuracy.",
    source="Teerapittayanon et al. 2016 (BranchyNet), Sec. IV; Kaya et al. 2019 (overthinking), Sec. 4",
    protocol="ResNet-{depth} with two exits, trained together with equal weights. An image leaves at the "
    "first exit whose entropy is below a threshold, chosen on half of the test images to cost at most "
    f"{GIVEN_UP} points there; measured on the other half.",
    measure=_measure,
    calibrated="all bounds.",
    x="mean MACs, share of the whole network's",
    y="accuracy, %",
    draw=_draw,
)
_BEST = Check("accuracy, best exit of each image", 2.0, minus="accuracy, last exit")
CLAIM = _claim(
    SMALL,
    (
        Check("times less work", 1.5),
        Check("accuracy, with exits", -1.0, minus="accuracy, last exit"),
        _BEST,
    ),
    seeds=3,
    depth=20,
)
FULL = _claim(
    FULL_SCALE,
    (
        Check("times less work", 2.0),
        Check("accuracy, with exits", -0.5, minus="accuracy, last exit"),
        _BEST,
    ),
    seeds=5,
    depth=56,
)
