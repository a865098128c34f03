"""One block deleted from a trained network: little is lost with shortcuts, nearly all without."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, claim
from benchmarks.claims.statements._subject import Subject, subject
from flaxarch.depth import deletable, delete_each, evaluate

CHANCE = 90.0  # chance: error in percent of guessing


def _measure(seed: int, places: Places, *, scale: Scale, layers: int, num_images: int) -> Measured:
    """Errors with all blocks, and without each."""
    residual = subject(layers, seed, places, scale, num_images)
    plain = subject(20, seed, places, scale, num_images, shortcut=None)
    (whole, each), (plain_whole, plain_each) = _errors(residual), _errors(plain)
    blocks = deletable(residual.model, residual.images.shape[1:])
    keeps_shape = np.array([block.input_shape == block.output_shape for block in blocks])
    damage = each - whole
    return Measured(
        {
            "error, residual": whole,
            "error, plain": plain_whole,
            "median damage, residual": float(np.median(damage)),
            "largest damage by a block that keeps the shape, residual": float(damage[keeps_shape].max()),
            "largest damage, residual": float(damage.max()),
            "smallest damage, plain": float((plain_each - plain_whole).min()),
            "smallest error after a deletion, plain": float(plain_each.min()),
            "smallest share lost of what is above chance, plain": float(
                ((plain_each - plain_whole) / (CHANCE - plain_whole)).min()
            ),
        },
        {"residual": list(each), "plain": list(plain_each)},
    )


def _errors(net: Subject) -> tuple[float, np.ndarray]:
    """In percent: of the whole network, and (num_blocks,) without each block."""
    n = len(deletable(net.model, net.images.shape[1:]))
    rows = np.vstack([np.ones(n, np.float32), delete_each(n)])
    errors = 100 * (1 - np.asarray(evaluate(*net, gates=rows).accuracy, np.float64))
    return float(errors[0]), errors[1:]


def _draw(axes: Any, kept: Any) -> None:
    """Error without each block, beside that of the whole network."""
    seeds = list(kept["seeds"].values())
    for name, marker in (("residual", "o"), ("plain", "s")):
        each = np.array([seed["curves"][name] for seed in seeds])
        depth = np.linspace(0, 1, each.shape[1])
        (line,) = axes.plot(depth, each.mean(axis=0), f"{marker}-", markersize=3, label=name)
        axes.fill_between(depth, each.min(axis=0), each.max(axis=0), alpha=0.2)
        whole = np.mean([seed["values"][f"error, {name}"] for seed in seeds])
        axes.axhline(whole, linestyle=":", color=line.get_color(), label=f"{name}, whole")
    axes.set_ylim(0, 100)


_claim = partial(
    claim,
    statement="A trained residual network hardly misses any one of its blocks; a plain one misses every "
    "layer.",
    source="Veit et al. 2016, Sec. 4.1 and Fig. 3",
    protocol="Each block of ResNet-{layers} is deleted, one at a time, and each pair of layers of plain-20 "
    "that keeps the shape, as many layers as a block has. The paper deletes from ResNet-110 and, as the "
    "plain network, from a VGG of 15 layers. {num_images:,} test images; errors in percent, damage in "
    "points.",
    measure=_measure,
    x="place of the deleted block, from the first to the last",
    y="error, %",
    draw=_draw,
)
CLAIM = _claim(
    SMALL,
    (
        Check("median damage, residual", high=5.0),
        Check("smallest share lost of what is above chance, plain", low=0.5),
    ),
    seeds=3,
    layers=56,
    num_images=1000,
    calibrated="both bounds. The paper's curves show no damage by most blocks, and errors near chance "
    "without any one layer.",
)
FULL = _claim(
    FULL_SCALE,
    (
        Check("median damage, residual", high=0.5),
        Check("largest damage by a block that keeps the shape, residual", high=3.0),
        Check("smallest error after a deletion, plain", low=60.0),
    ),
    seeds=5,
    layers=110,
    num_images=10_000,
    calibrated="the bounds, read off Fig. 3, where chance is an error of 90 %.",
)
