"""Networks that differ in where activations stand, or in what the shortcut is: He et al. 2016b."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from benchmarks.claims.claim import Measured, Places
from benchmarks.claims.networks import Scale, accuracy, images, logits, trained

GUESSING = float(np.log(10))  # nats: a larger loss counts as this

Forms = Mapping[str, Mapping[str, Any]]  # by name, fields of the network


def measure(seed: int, places: Places, *, forms: Forms, depth: int, scale: Scale) -> Measured:
    """Training loss and test error of each form."""
    x, labels = images(places, scale).test_set()
    values, curves = {}, {}
    for name, fields in forms.items():
        model: nn.Module = scale.preact(depth, **fields)
        net = trained(model, seed, places, scale)
        values[f"training loss, {name}"] = min(GUESSING, net.final_loss)  # also where it is not finite
        values[f"test error, {name}"] = 100 - accuracy(logits(model, net.variables, x), labels)
        curves[name] = list(np.fmin(GUESSING, net.losses.reshape(50, -1).mean(axis=1)))
    return Measured(values, curves)


def draw(axes: Any, kept: Any) -> None:
    """Training loss over the course of training, the mean over seeds."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for name in seeds[0]:
        mean = np.mean([curves[name] for curves in seeds], axis=0)
        axes.plot(100 * (np.arange(len(mean)) + 0.5) / len(mean), mean, label=name)
