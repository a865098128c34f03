"""Label smoothing keeps networks from being too sure of themselves."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np

from benchmarks.claims import networks
from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale
from flaxarch.analysis import expected_calibration_error, reliability

SMOOTHING = 0.1
FEW = dataclasses.replace(
    SMALL,
    num_train=2500,
    training=dataclasses.replace(SMALL.training, augment="none"),
    in_words="Networks 8, 16 and 32 features wide, on CIFAR-10 at 16x16 pixels (means of 2x2): 1,000 steps "
    "of 64; one cycle of the rate up to 0.1, Nesterov's momentum 0.9, decay 5e-4. Tested on 5,000 images.",
)


def _measure(seed: int, places: Places, *, scales: Mapping[str, Scale]) -> Measured:
    """Errors of calibration, with and without smoothing, of each scale."""
    values: dict[str, float] = {}
    curves: dict[str, list[float]] = {}
    for of, scale in scales.items():
        model, data = scale.resnet(20), networks.images(places, scale)
        images, labels = data.test_set()
        errors = []
        for name, smoothing in (("labels", 0.0), ("smoothed labels", SMOOTHING)):
            net = networks.trained(model, seed, places, scale, label_smoothing=smoothing)
            found = networks.logits(model, net.variables, images)
            chart = reliability(found, labels)
            errors.append(expected_calibration_error(found, labels))
            too_sure = np.nansum(chart.share * (chart.confidence - chart.accuracy))
            values |= {
                f"calibration error, {name}, {of}": errors[-1],
                f"confidence less accuracy, {name}, {of}": float(too_sure),
                f"accuracy, {name}, {of}": networks.accuracy(found, labels),
                f"training loss, {name}, {of}": net.final_loss,
            }
            curves[f"{name}, {of}"] = list(chart.accuracy)
        values[f"calibration error with smoothing over without, {of}"] = errors[1] / errors[0]
    return Measured(values, curves)


def _draw(axes: Any, kept: Any) -> None:
    """Reliability diagram: accuracy by confidence, of the bins that no seed leaves empty."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for name in seeds[0]:
        found = np.array([seed[name] for seed in seeds])
        centres = (np.arange(found.shape[1]) + 0.5) / found.shape[1]
        axes.plot(centres, found.mean(axis=0), "o-", markersize=3, label=name)
        axes.fill_between(centres, found.min(axis=0), found.max(axis=0), alpha=0.2)
    axes.plot([0, 1], [0, 1], "k:", label="calibrated")


def _claim(
    scales: Mapping[str, Scale], training: str, check: Check, tier: Literal["C", "G"], seeds: int, bound: str
) -> Claim:
    return Claim(
        "Networks that have learned their images by heart are too sure of themselves, and less so if they "
        "were trained with smoothed labels.",
        "Müller, Kornblith & Hinton 2019, Sec. 3",
        f"ResNet-20, trained with ε = {SMOOTHING} and with 0; expected calibration error in 15 bins (Guo et "
        f"al. 2017). The paper's ResNet-56 on CIFAR-100 has 0.150 without and 0.024 with. {training}",
        partial(_measure, scales=scales),
        (check,),
        seeds=seeds,
        tier=tier,
        needs=("cifar10",),
        calibrated=bound,
        x="confidence",
        y="accuracy",
        draw=_draw,
    )


CLAIM = _claim(
    {"2,500 images": FEW, "20,000 images": SMALL},
    "2,500 training images, seen 26 times each and never mirrored, stand for the paper's training, in which "
    "all images are learned. Networks that have seen 20,000 images three times, mirrored half of the time, "
    f"are reported beside, and not tested. {FEW.in_words}",
    Check("calibration error with smoothing over without, 2,500 images", high=1.0),
    "C",
    3,
    "the bound, and the number of training images.",
)
FULL = _claim(
    {"all images": FULL_SCALE},
    FULL_SCALE.in_words,
    Check("calibration error with smoothing over without, all images", high=0.5),
    "G",
    5,
    "half of the error.",
)
