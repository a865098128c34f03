"""Networks that differ by their seed alone, and their mean."""

import math
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from benchmarks.claims import networks
from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale
from benchmarks.claims.statements._subject import subject


def _measure(seed: int, places: Places, *, scale: Scale, members: int) -> Measured:
    """The mean of all members' probabilities against the member of this seed."""
    nets = [subject(20, member, places, scale, scale.num_test) for member in range(members)]
    labels = np.asarray(nets[0].labels)
    probs = np.stack(
        [
            np.asarray(jax.nn.softmax(networks.logits(net.model, net.variables, net.images)), np.float64)
            for net in nets
        ]
    )
    losses = -np.log(probs[:, np.arange(len(labels)), labels]).mean(axis=1)
    means = [probs[: i + 1].mean(axis=0) for i in range(members)]  # of the first i + 1
    right, single = means[-1].argmax(axis=1) == labels, probs[seed].argmax(axis=1) == labels
    gains = 100 * (right.astype(float) - single)
    return Measured(
        {
            "accuracy, ensemble": 100 * float(right.mean()),
            "accuracy, single": 100 * float(single.mean()),
            "gain": float(gains.mean()),
            "standard error of the gain over images": float(gains.std() / math.sqrt(len(gains))),
            "loss, ensemble": float(-np.log(means[-1][np.arange(len(labels)), labels]).mean()),
            "loss, single": float(losses[seed]),
        },
        {"the first x together": [100 * float((mean.argmax(axis=1) == labels).mean()) for mean in means]},
    )


def _draw(axes: Any, kept: Any) -> None:
    """Each network, and the first of them together."""
    seeds = list(kept["seeds"].values())
    together = seeds[0]["curves"]["the first x together"]
    axes.plot(
        [1] * len(seeds), [seed["values"]["accuracy, single"] for seed in seeds], "s", label="each alone"
    )
    axes.plot(range(1, len(together) + 1), together, "o-", label="the first x together")
    axes.set_xticks(range(1, len(together) + 1))


def _claim(scale: Scale, *, tier: Literal["C", "G"], members: int) -> Claim:
    return Claim(
        "The mean of the probabilities of networks that differ by their seed alone is better than each of "
        "them.",
        "Krizhevsky et al. 2012, Sec. 6 (five networks: top-5 error 18.2 % -> 16.4 %); Szegedy et al. 2015, "
        "Table 3 (seven GoogLeNets, one crop: 10.07 % -> 8.09 %)",
        f"{members} ResNet-20s, whose probabilities are averaged, against each of them: the interval is over "
        f"the members, of one ensemble. All {scale.num_test:,} test images. {scale.in_words}",
        partial(_measure, scale=scale, members=members),
        (
            Check("gain", low=0.5),
            Check("loss, ensemble", high=0.0, minus="loss, single"),
        ),
        seeds=members,
        tier=tier,
        needs=("cifar10",),
        calibrated="half a point of accuracy.",
        x="networks",
        y="accuracy, %",
        draw=_draw,
    )


CLAIM = _claim(SMALL, tier="C", members=3)
FULL = _claim(FULL_SCALE, tier="G", members=5)
