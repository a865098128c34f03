"""What the claims on multi-level training share: to train shallow, refine and go on, or deep from scratch."""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import flaxarch
from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, accuracy, claim, images, logits, train
from benchmarks.claims.statements._ode import ode_resnet
from flaxarch.models.ode_resampling import resampled
from train.losses import cross_entropy_sum

TIME = 3.0
POINTS = 25  # of a curve


def _measure(
    seed: int, places: Places, *, scale: Scale, num_updates: int, levels: tuple[int, ...]
) -> Measured:
    """Accuracies and losses around each refinement, and those of the deep network; the compute of both."""
    data, cycle = images(places, scale), num_updates // len(levels)
    x, labels = data.test_set(2000)
    seen, seen_labels = data.train_set(2000)
    values: dict[str, float] = {}
    curves: dict[str, list[float]] = {}

    def measured(model: Any, variables: Any) -> tuple[float, float]:
        loss = cross_entropy_sum(logits(model, variables, seen), seen_labels, jnp.ones(len(seen)))
        return accuracy(logits(model, variables, x), labels), float(loss) / len(seen)

    def config(number: int, steps: int) -> Any:
        return dataclasses.replace(scale.training, seed=10 * seed + number, steps=steps)

    model, variables, losses = ode_resnet(scale, levels[0], TIME), None, []
    compute = 0.0
    for number, level in enumerate(levels):
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
    deep = ode_resnet(scale, levels[-1], TIME)
    result = train(deep, config(len(levels), cycle * len(levels)), data)
    values["accuracy, from scratch"], values["training loss, from scratch"] = measured(deep, result.variables)
    from_scratch = 3 * _macs(scale, levels[-1]) * scale.training.batch_size * cycle * len(levels)
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


def claims(levels: tuple[int, ...], share: float, num_updates: int) -> tuple[Claim, Claim]:
    """The small and the full claim for so many blocks a stage, and the share of compute they take."""
    *_, deepest = levels
    words = ", ".join(map(str, levels[1:-1]))
    make = partial(
        claim,
        statement=f"Training {levels[0]} blocks a stage, then {words} and {deepest} made from them, takes "
        f"{share} of the compute of training {deepest} from the start, to the same accuracy.",
        source="Chang et al. 2018 (Multi-level residual networks from dynamical systems view), abstract",
        protocol="Networks of three stages to T = 3, theta(t) piecewise constant. {num_updates:,} updates in "
        f"all: {_SHARES[len(levels)]} of them at each level, with the rate's cycle begun anew, against all "
        "of them at the last. Refinement copies each block and its batch statistics, and halves the step. "
        "2,000 test images, the training loss on 2,000 training images. Compute is three times the "
        "multiply-accumulates forwards.",
        measure=partial(_measure, levels=levels),
        calibrated="all bounds but that of the compute. The paper saves 40 % of the time, with errors as "
        "those from scratch or lower.",
        x="share of the updates, %",
        y="training loss, nats",
        draw=_draw,
        seeds=3,
    )
    checks = (
        Check("compute, of that from scratch", high=share),
        *(Check(f"rise of the training loss by refinement to {level}", high=0.1) for level in levels[1:]),
    )

    def difference(points: float) -> Check:
        return Check("accuracy, refined", -points, minus="accuracy, from scratch")

    return (
        make(SMALL, (*checks, difference(3.0)), num_updates=num_updates),
        make(FULL_SCALE, (*checks, difference(0.3)), num_updates=64_000),
    )


_SHARES = {3: "a third", 4: "a quarter"}
