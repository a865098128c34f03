"""Training a shallow network, refining it and going on, against training the deep one from scratch."""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import flaxarch
from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, accuracy, claim, images, logits, train
from benchmarks.claims.statements._ode import ode_resnet
from flaxarch.models.ode_resnet import resampled
from train.losses import cross_entropy_sum

LEVELS = (3, 6, 12)  # steps of each stage
TIME = 3.0
POINTS = 25  # of a curve


def _measure(seed: int, places: Places, *, scale: Scale, num_updates: int) -> Measured:
    """Accuracies and losses around each refinement, and those of the deep network; the compute of both."""
    data, cycle = images(places, scale), num_updates // len(LEVELS)
    x, labels = data.test_set(2000)
    seen, seen_labels = data.train_set(2000)
    values: dict[str, float] = {}
    curves: dict[str, list[float]] = {}

    def measured(model: Any, variables: Any) -> tuple[float, float]:
        loss = cross_entropy_sum(logits(model, variables, seen), seen_labels, jnp.ones(len(seen)))
        return accuracy(logits(model, variables, x), labels), float(loss) / len(seen)

    def config(number: int, steps: int) -> Any:
        return dataclasses.replace(scale.training, seed=10 * seed + number, steps=steps)

    model, variables, losses = ode_resnet(scale, LEVELS[0], TIME), None, []
    compute = 0.0
    for number, level in enumerate(LEVELS):
        if number:
            before = measured(model, variables)
            model, variables = resampled(model, variables, (level,) * 3)
            after = measured(model, variables)
            values[f"accuracy before refinement to {level}"] = before[0]
            values[f"accuracy after refinement to {level}"] = after[0]
            values[f"rise of the training loss by refinement to {level}"] = after[1] - before[1]
        result = train(model, config(number, cycle), data, variables)
        variables, losses = result.variables, [*losses, *result.losses]
        compute += 3 * _macs(scale, level) * scale.training.batch_size * cycle
    values["accuracy, refined"], values["training loss, refined"] = measured(model, variables)
    deep = ode_resnet(scale, LEVELS[-1], TIME)
    result = train(deep, config(len(LEVELS), cycle * len(LEVELS)), data)
    values["accuracy, from scratch"], values["training loss, from scratch"] = measured(deep, result.variables)
    from_scratch = 3 * _macs(scale, LEVELS[-1]) * scale.training.batch_size * cycle * len(LEVELS)
    values["compute, of that from scratch"] = compute / from_scratch
    values["multiply-accumulates, from scratch"] = from_scratch
    for name, of_steps in (("refined", losses), ("from scratch", result.losses)):
        curves[name] = [float(part.mean()) for part in np.array_split(np.asarray(of_steps), POINTS)]
    return Measured(values, curves)


def _macs(scale: Scale, level: int) -> int:
    """Of one image forwards."""
    model = ode_resnet(scale, level, TIME).clone(scan=False)
    return flaxarch.cost(model, (scale.size, scale.size, 3)).macs


def _draw(axes: Any, kept: Any) -> None:
    """Training loss over the course of training."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for name in seeds[0]:
        curve = np.mean([curves[name] for curves in seeds], axis=0)
        axes.plot(100 * (np.arange(len(curve)) + 0.5) / len(curve), curve, label=name)


_claim = partial(
    claim,
    statement="Training 3 blocks a stage, then 6 and 12 made from them, takes 0.6 of the compute of training "
    "12 from the start, to the same accuracy.",
    source="Chang et al. 2018 (Multi-level residual networks from dynamical systems view), abstract",
    protocol="Networks of three stages to T = 3, theta(t) piecewise constant. {num_updates:,} updates in "
    "all: a third of them at each level, with the rate's cycle begun anew, against all of them at the last. "
    "Refinement copies each block and its batch statistics, and halves the step. 2,000 test images, the "
    "training loss on 2,000 training images. Compute is three times the multiply-accumulates forwards.",
    measure=_measure,
    calibrated="all bounds but that of the compute. The paper saves 40 % of the time, with errors as those "
    "from scratch or lower.",
    x="share of the updates, %",
    y="training loss, nats",
    draw=_draw,
)
_CHECKS = (
    Check("compute, of that from scratch", high=0.6),
    Check("rise of the training loss by refinement to 6", high=0.1),
    Check("rise of the training loss by refinement to 12", high=0.1),
)
CLAIM = _claim(
    SMALL,
    (*_CHECKS, Check("accuracy, refined", -3.0, minus="accuracy, from scratch")),
    seeds=3,
    num_updates=450,
)
FULL = _claim(
    FULL_SCALE,
    (*_CHECKS, Check("accuracy, refined", -0.3, minus="accuracy, from scratch")),
    seeds=3,
    num_updates=64_000,
)
