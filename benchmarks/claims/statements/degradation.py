"""Depth without shortcuts: a deeper plain network trains worse, a deeper residual one does not."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, accuracy, images, logits, trained

NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain-20": (20, {"shortcut": None}),
    "plain-56": (56, {"shortcut": None}),
    "ResNet-20": (20, {}),
    "ResNet-56": (56, {}),
}
POINTS = 50  # of a curve


def _measure(seed: int, places: Places, *, scale: Scale) -> Measured:
    """Training losses and test errors of the four networks."""
    x, labels = images(places, scale).test_set()
    values, curves = {}, {}
    for name, (depth, fields) in NETWORKS.items():
        model = scale.resnet(depth, **fields)
        net = trained(model, seed, places, scale)
        values[f"training loss, {name}"] = net.final_loss
        values[f"test error, {name}"] = 100 - accuracy(logits(model, net.variables, x), labels)
        curves[name] = list(net.losses.reshape(POINTS, -1).mean(axis=1))
    return Measured(values, curves)


def _draw(axes: Any, kept: Any) -> None:
    """Training loss over the course of training."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for name in NETWORKS:
        each = np.array([curves[name] for curves in seeds])
        share = 100 * (np.arange(each.shape[1]) + 0.5) / each.shape[1]
        axes.plot(share, each.mean(axis=0), label=name)
        axes.fill_between(share, each.min(axis=0), each.max(axis=0), alpha=0.2)


_claim = partial(
    Claim,
    "A plain network of 56 layers trains worse than one of 20; a residual one of 56 layers does not.",
    "He et al. 2016, Sec. 4.2 and Fig. 6",
    needs=("cifar10",),
    x="share of the training, %",
    y="training loss, nats",
    draw=_draw,
)
CLAIM = _claim(
    protocol=f"Shortcuts without parameters (option A). {SMALL.in_words} The training loss is the mean over "
    "the last tenth of the steps.",
    measure=partial(_measure, scale=SMALL),
    checks=(
        Check("training loss, plain-56", 0.15, minus="training loss, plain-20"),
        Check("training loss, ResNet-56", high=-0.3, minus="training loss, plain-56"),
        Check("training loss, ResNet-56", high=0.05, minus="training loss, ResNet-20"),
    ),
    seeds=3,
    calibrated="all bounds.",
)
FULL = _claim(
    protocol=f"Shortcuts without parameters (option A). {FULL_SCALE.in_words}",
    measure=partial(_measure, scale=FULL_SCALE),
    checks=(
        Check("training loss, plain-56", 0.02, minus="training loss, plain-20"),
        Check("training loss, ResNet-56", high=0.0, minus="training loss, ResNet-20"),
        Check("test error, plain-56", 3.0, minus="test error, ResNet-56"),
        Check("test error, ResNet-20", high=8.5),
        Check("test error, ResNet-56", high=7.0),
    ),
    seeds=5,
    tier="G",
    calibrated="the differences; the errors are the paper's, 8.75 and 6.97, with as much to spare as later "
    "runs have had.",
)
