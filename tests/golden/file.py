"""A golden file: what it holds, and how it is written and read."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.golden import fill
from tests.golden.case import Case, Size
from tests.golden.outputs import Evaluation, Training


class Golden(NamedTuple):
    """What a golden file says of one network; in place of tensors it has sketches, but whole logits."""

    shapes: dict[str, tuple[int, ...]]  # of all tensors in the source's checkpoint
    images: list[Size]  # of the evaluations
    evaluations: list[Evaluation]
    batch: Size  # of the training step
    num_classes: int
    training: Training


def path(name: str) -> Path:
    """Where the golden file of a network is."""
    return Path(__file__).parent / f"{name.replace(', ', '_').replace(' ', '_')}.npz"


def sketches(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sketch of each tensor."""
    return {key: fill.sketch(key, x) for key, x in tensors.items()}


def sketched(training: Training) -> Training:
    """A training step's outputs as a golden file has them."""
    return Training(training.loss, sketches(training.gradients), sketches(training.statistics))


def write(
    file: Path,
    versions: str,
    shapes: dict[str, tuple[int, ...]],
    case: Case,
    evaluations: list[Evaluation],
    training: Training,
) -> None:
    """Write the outputs of a library."""
    training = sketched(training)
    about = {
        "versions": versions,
        "shapes": shapes,
        "num_classes": case.num_classes,
        "evaluation": case.evaluation,
        "training": case.training,
        "stages": list(evaluations[0].stages),
        "gradients": list(training.gradients),
        "statistics": list(training.statistics),
    }
    arrays: dict[str, Any] = {"about": json.dumps(about), "loss": training.loss}
    for i, evaluation in enumerate(evaluations):
        arrays[f"logits{i}"] = evaluation.logits
        if case.stages:
            arrays[f"stages{i}"] = np.stack(list(sketches(evaluation.stages).values()))
    arrays["gradients"] = np.stack(list(training.gradients.values()))
    if training.statistics:
        arrays["statistics"] = np.stack(list(training.statistics.values()))
    np.savez_compressed(file, **arrays)


def read(name: str) -> Golden:
    """The golden file of a network."""
    with np.load(path(name)) as arrays:
        about = json.loads(str(arrays["about"]))

        def named(kind: str, suffix: str = "") -> dict[str, np.ndarray]:
            return dict(zip(about[kind], arrays[kind + suffix], strict=True)) if about[kind] else {}

        return Golden(
            {key: tuple(shape) for key, shape in about["shapes"].items()},
            [tuple(size) for size in about["evaluation"]],
            [
                Evaluation(arrays[f"logits{i}"], named("stages", str(i)))
                for i in range(len(about["evaluation"]))
            ],
            tuple(about["training"]),
            about["num_classes"],
            Training(float(arrays["loss"]), named("gradients"), named("statistics")),
        )
