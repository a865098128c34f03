"""The largest learning rate that trains a network, with batch norm and without."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import networks
from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale
from benchmarks.claims.statements._constant_rate import Unnormalised, losses_by_rate
from flaxarch.layers import TORCH

TRAINED, WORST = 2.2, 5.0  # nats; guessing has ln 10 = 2.303


class Protocol(NamedTuple):
    """Of the trainings."""

    layers: int
    steps: int
    batch_size: int
    log2_rates: tuple[int, ...]  # at equal distances


def _measure(seed: int, places: Places, *, scale: Scale, protocol: Protocol) -> Measured:
    """Losses by rate, and the largest rate at which a network was trained."""
    data, size = networks.images(places, scale).train, protocol.batch_size
    images, labels = networks.images(places, scale).train_set()
    order = np.random.default_rng(seed).permutation(len(data))

    def batches() -> Iterator[tuple[jax.Array, jax.Array]]:
        for i in range(protocol.steps):
            chosen = jnp.asarray(order.take(range(i * size, (i + 1) * size), mode="wrap"))
            yield images[chosen], labels[chosen]

    values: dict[str, float] = {}
    curves: dict[str, list[float]] = {"log2 of rate": list(map(float, protocol.log2_rates))}
    for name, conventions in (("batch norm", TORCH), ("none", Unnormalised())):
        model = scale.resnet(protocol.layers, conventions=conventions)
        losses = losses_by_rate(model, seed, (2.0**rate for rate in protocol.log2_rates), batches, WORST)
        trained = [r for r, loss in zip(protocol.log2_rates, losses, strict=True) if loss < TRAINED]
        values[f"log2 of largest rate, {name}"] = float(max(trained, default=math.nan))
        values[f"smallest loss, {name}"] = min(losses)
        curves[name] = losses
    return Measured(values, curves)


def _draw(axes: Any, kept: Any) -> None:
    """Loss over the rate."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    rates = 2 ** np.array(seeds[0]["log2 of rate"])
    for name, label in (("batch norm", "batch norm"), ("none", "no batch norm")):
        found = np.array([seed[name] for seed in seeds])
        axes.semilogx(rates, found.mean(axis=0), "o-", markersize=3, label=label)
        axes.fill_between(rates, found.min(axis=0), found.max(axis=0), alpha=0.2)
    axes.axhline(TRAINED, color="grey", linewidth=0.8, label="counts as trained")


def _claim(
    scale: Scale, protocol: Protocol, factor: int, tier: Literal["C", "G"], seeds: int, more: str
) -> Claim:
    first, second = protocol.log2_rates[:2]
    return Claim(
        "Batch norm allows much higher learning rates.",
        "Ioffe & Szegedy 2015, Sec. 3.3; Bjorck et al. 2018, Sec. 3",
        f"ResNet-{protocol.layers}, and the same without batch norm, its convolutions with biases; both "
        f"start as the library's do. {protocol.steps:,} steps of {protocol.batch_size} at a constant rate, "
        f"momentum 0.9, no decay, for rates from 2^{first} to 2^{protocol.log2_rates[-1]} by factors of "
        f"{2 ** (second - first)}. A rate trains where the mean loss over the last tenth of the steps is "
        f"below {TRAINED} nats; guessing has 2.303. Losses are cut at {WORST:g}. CIFAR-10 at {scale.size}x"
        f"{scale.size} pixels, networks {', '.join(map(str, scale.widths))} features wide. Bjorck et al. "
        "find that ResNet-110 diverges above 10^-4 to 10^-3 without batch norm, and trains at 10^-1 with it.",
        partial(_measure, scale=scale, protocol=protocol),
        (
            Check(
                "log2 of largest rate, batch norm",
                low=math.log2(factor),
                minus="log2 of largest rate, none",
            ),
        ),
        seeds=seeds,
        tier=tier,
        needs=("cifar10",),
        calibrated=f"{TRAINED} nats, and that the rate is to be {factor} times as high, {more}.",
        x="learning rate",
        y="loss at the end, nats",
        draw=_draw,
    )


CLAIM = _claim(
    SMALL,
    Protocol(20, 150, 64, tuple(range(-12, 3, 2))),
    16,
    "C",
    3,
    "two steps of the grid, of a network of 20 layers",
)
FULL = _claim(
    FULL_SCALE, Protocol(110, 2000, 128, tuple(range(-16, 5))), 32, "G", 5, "where the paper has 100 and more"
)
