"""The operations and tables against torchvision's and timm's own, where these are installed."""

import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.augment import pictures
from train.augment.crop import crop_box
from train.augment.policies import (
    AUTOAUGMENT_CIFAR10,
    RANDAUGMENT,
    RANDAUGMENT_TIMM,
    TRIVIALAUGMENT_WIDE,
)

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 48, 60


def random_picture(mode: str = "RGB") -> Image.Image:
    """Smooth patches with noise, at less than full contrast."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 220, (6, 6, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    noisy = np.clip(smooth + rng.normal(0, 8, smooth.shape), 20, 235).astype(np.uint8)
    return Image.fromarray(noisy).convert(mode)


def snake(name: str) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()


def row_of(table: Any, name: str) -> Any:
    """The row of torchvision's or timm's operation."""
    [row] = [row for row in table if row.operation.__name__ in (name, f"{name}_by_share")]
    return row


def _strength(row: Any, magnitude: float) -> float:
    """torchvision's magnitude, in single precision, as our operation takes it: a hair decides on pixels."""
    match row.operation.__name__:
        case "translate_x_by_share":
            return magnitude / WIDTH
        case "translate_y_by_share":
            return magnitude / HEIGHT
    return magnitude


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("policy", ["RandAugment", "TrivialAugmentWide", "AutoAugment"])
def test_operations_equal_torchvisions_at_every_magnitude(policy: str, mode: str):
    transforms = pytest.importorskip("torchvision.transforms")
    apply_op = transforms.autoaugment._apply_op
    bilinear = transforms.InterpolationMode.BILINEAR
    if policy == "TrivialAugmentWide":
        bins, table, theirs = 31, TRIVIALAUGMENT_WIDE, transforms.TrivialAugmentWide()
        space = theirs._augmentation_space(bins)
    elif policy == "RandAugment":
        bins, table, theirs = 31, RANDAUGMENT, transforms.RandAugment()
        space = theirs._augmentation_space(bins, (HEIGHT, WIDTH))
    else:
        bins, table, theirs = 10, (*RANDAUGMENT, RANDAUGMENT_TIMM[2]), transforms.AutoAugment()
        space = theirs._augmentation_space(bins, (HEIGHT, WIDTH))
    picture, fill, compared = random_picture(mode), (0,) * len(mode), 0
    for name, (magnitudes, signed) in space.items():
        row = row_of(table, snake(name))
        assert row.signed == signed
        for level in range(bins):
            magnitude = float(magnitudes[level]) if magnitudes.ndim else 0.0
            for negative in (False, True) if signed else (False,):
                signed_magnitude = -magnitude if negative else magnitude
                expected = apply_op(picture, name, signed_magnitude, bilinear, None)
                ours = row.zero + level / (bins - 1) * (row.full - row.zero)
                strength = _strength(row, signed_magnitude)
                assert abs(strength) == pytest.approx(ours, rel=1e-6, abs=1e-6) or name == "Posterize"
                found = row.operation(picture, ours if name == "Posterize" else strength, fill)
                difference = np.asarray(found).astype(int) - np.asarray(expected)
                assert np.abs(difference).max() <= 1, (name, level, negative)
                compared += 1
    assert len(space) in (14, len(table))
    assert compared > 10 * bins


def test_autoaugment_is_the_policy_that_torchvision_has():
    transforms = pytest.importorskip("torchvision.transforms")
    theirs = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10).policies
    ours = [
        tuple(
            (
                chance.row.operation.__name__.removesuffix("_by_share"),
                chance.probability,
                round(9 * chance.share),
            )
            for chance in pair
        )
        for pair in AUTOAUGMENT_CIFAR10
    ]
    assert ours == [tuple((snake(name), p, level or 0) for name, p, level in pair) for pair in theirs]


def test_timms_table_equals_timms_at_every_magnitude():
    timm = pytest.importorskip("timm.data.auto_augment")
    picture, fill = random_picture(), (1, 2, 3)
    assert len(timm._RAND_INCREASING_TRANSFORMS) == len(RANDAUGMENT_TIMM)
    for name in timm._RAND_INCREASING_TRANSFORMS:
        ours = snake(name.removesuffix("Increasing").removesuffix("Rel"))
        row = row_of(RANDAUGMENT_TIMM, ours)
        for magnitude in (0.0, 3.0, 7.0, 7.4, 9.9):
            level = timm.LEVEL_TO_ARG[name]
            arguments: tuple[Any, ...] = (
                level(magnitude, {"translate_pct": 0.45}) if level is not None else ()
            )
            options = {"fillcolor": fill, "resample": Image.Resampling.BILINEAR}
            if ours.startswith("translate"):  # by whole pixels here, and the other way
                side = WIDTH if ours.endswith("x") else HEIGHT
                arguments = (-int(abs(arguments[0]) * side) / side,)
                found = [row(picture, magnitude / 10, False, fill)]
            else:
                found = [row(picture, magnitude / 10, negative, fill) for negative in (False, True)]
            expected = timm.NAME_TO_OP[name](picture, *arguments, **options)
            differences = [np.abs(np.asarray(x).astype(int) - np.asarray(expected)).max() for x in found]
            assert min(differences) <= 1, (name, magnitude)  # timm's own coin gave one of the two signs


def test_crops_equal_torchvisions_for_the_same_box():
    functional = pytest.importorskip("torchvision.transforms.functional")
    picture, numbers = random_picture(), np.random.default_rng(1).random((20, 10, 4))
    for u in numbers:
        left, top, width, height = crop_box(WIDTH, HEIGHT, u, (0.08, 1.0), (3 / 4, 4 / 3))
        expected = functional.resized_crop(picture, top, left, height, width, [32, 32])
        part = pictures.to_picture(np.asarray(picture)[top : top + height, left : left + width])
        found = part.resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
