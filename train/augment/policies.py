"""RandAugment, TrivialAugment and AutoAugment: which operations, how strong, and how they are drawn.

The magnitudes are those of the two libraries whose recipes use them. A table's row says what an operation is
given at magnitude 0 and at the largest; what lies between is linear.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from train.augment import pictures
from train.augment.draws import Draws
from train.augment.pictures import Fill, Operation, to_array, to_picture


class Row(NamedTuple):
    """An operation and its strengths."""

    operation: Operation
    zero: float = 0.0
    full: float = 0.0
    signed: bool = False  # whether half of the time the opposite is done

    def __call__(self, picture: Image.Image, share: float, negative: bool, fill: Fill) -> Image.Image:
        """Does it at a share, 0 to 1, of the largest magnitude."""
        strength = self.zero + share * (self.full - self.zero)
        return self.operation(picture, -strength if self.signed and negative else strength, fill)


# torchvision's RandAugment, the operations of Cubuk et al. 2020, https://arxiv.org/abs/1909.13719, Sec. 3.
# The largest magnitude is 30. Posterize rounds bits down, so that the half added rounds to the nearest.
RANDAUGMENT = (
    Row(pictures.identity),
    Row(pictures.shear_x, 0, 0.3, signed=True),
    Row(pictures.shear_y, 0, 0.3, signed=True),
    Row(pictures.translate_x_by_share, 0, 150 / 331, signed=True),
    Row(pictures.translate_y_by_share, 0, 150 / 331, signed=True),
    Row(pictures.rotate, 0, 30, signed=True),
    Row(pictures.brightness, 0, 0.9, signed=True),
    Row(pictures.color, 0, 0.9, signed=True),
    Row(pictures.contrast, 0, 0.9, signed=True),
    Row(pictures.sharpness, 0, 0.9, signed=True),
    Row(pictures.posterize, 0.5, 4.5),
    Row(pictures.solarize, 255, 0),
    Row(pictures.auto_contrast),
    Row(pictures.equalize),
)

# timm's "rand-...-inc1", in which more is always stronger; the largest magnitude is 10. Here translations are
# by whole pixels and interpolation is bilinear, where timm's are not rounded, and now and then bicubic.
RANDAUGMENT_TIMM = (
    Row(pictures.auto_contrast),
    Row(pictures.equalize),
    Row(pictures.invert),
    Row(pictures.rotate, 0, 30, signed=True),
    Row(pictures.posterize, 4, 8),
    Row(pictures.solarize, 256, 0),
    Row(pictures.solarize_add, 0, 110),
    Row(pictures.color, 0, 0.9, signed=True),
    Row(pictures.contrast, 0, 0.9, signed=True),
    Row(pictures.brightness, 0, 0.9, signed=True),
    Row(pictures.sharpness, 0, 0.9, signed=True),
    Row(pictures.shear_x, 0, 0.3, signed=True),
    Row(pictures.shear_y, 0, 0.3, signed=True),
    Row(pictures.translate_x_by_share, 0, 0.45, signed=True),
    Row(pictures.translate_y_by_share, 0, 0.45, signed=True),
)

# Müller & Hutter 2021, https://arxiv.org/abs/2103.10158, Table 4 (wide), as in torchvision: 31 magnitudes.
TRIVIALAUGMENT_WIDE = (
    Row(pictures.identity),
    Row(pictures.shear_x, 0, 0.99, signed=True),
    Row(pictures.shear_y, 0, 0.99, signed=True),
    Row(pictures.translate_x, 0, 32, signed=True),
    Row(pictures.translate_y, 0, 32, signed=True),
    Row(pictures.rotate, 0, 135, signed=True),
    Row(pictures.brightness, 0, 0.99, signed=True),
    Row(pictures.color, 0, 0.99, signed=True),
    Row(pictures.contrast, 0, 0.99, signed=True),
    Row(pictures.sharpness, 0, 0.99, signed=True),
    Row(pictures.posterize, 0.5, 6.5),
    Row(pictures.solarize, 255, 0),
    Row(pictures.auto_contrast),
    Row(pictures.equalize),
)

# AutoAugment's operations with the strengths of its magnitudes 0 to 9, as in torchvision.
_AUTOAUGMENT = {row.operation.__name__: row for row in (*RANDAUGMENT, Row(pictures.invert))}

# The 25 pairs found for CIFAR-10: Cubuk et al. 2019, https://arxiv.org/abs/1805.09501, Table 7. Of each
# operation: chance in tenths, and magnitude.
_CIFAR10 = """
invert 1 0, contrast 2 6
rotate 7 2, translate_x_by_share 3 9
sharpness 8 1, sharpness 9 3
shear_y 5 8, translate_y_by_share 7 9
auto_contrast 5 0, equalize 9 0
shear_y 2 7, posterize 3 7
color 4 3, brightness 6 7
sharpness 3 9, brightness 7 9
equalize 6 0, equalize 5 0
contrast 6 7, sharpness 6 5
color 7 7, translate_x_by_share 5 8
equalize 3 0, auto_contrast 4 0
translate_y_by_share 4 3, sharpness 2 6
brightness 9 6, color 2 8
solarize 5 2, invert 0 0
equalize 2 0, auto_contrast 6 0
equalize 2 0, equalize 6 0
color 9 9, equalize 6 0
auto_contrast 8 0, solarize 2 8
brightness 1 3, color 7 0
solarize 4 5, auto_contrast 9 0
translate_y_by_share 9 9, translate_y_by_share 7 9
auto_contrast 9 0, solarize 8 3
equalize 8 0, invert 1 0
translate_y_by_share 7 9, auto_contrast 9 0
"""


class Chance(NamedTuple):
    """One operation of AutoAugment's, and how it is done."""

    row: Row
    probability: float
    share: float  # of the largest magnitude


def _chance(words: str) -> Chance:
    name, tenths, magnitude = words.split()
    return Chance(_AUTOAUGMENT[name], int(tenths) / 10, int(magnitude) / 9)


AUTOAUGMENT_CIFAR10 = tuple(
    tuple(_chance(words) for words in line.split(",")) for line in _CIFAR10.strip().splitlines()
)


def rand_augment(
    images: np.ndarray,
    draws: Draws,
    fill: Fill,
    *,
    table: tuple[Row, ...] = RANDAUGMENT,
    num_operations: int = 2,
    magnitude: float = 9.0,
    std: float = 0.0,
    largest: float = 30.0,
    probability: float = 1.0,
) -> np.ndarray:
    """Operations of the table at random, each at `magnitude` of `largest`, give or take a normal `std`.

    Args:
        images: uint8 (n, H, W, 1 or 3).
        draws: of these examples.
        fill: what is uncovered.
        table: of the operations, each equally likely.
        num_operations: one after the other.
        magnitude: of all.
        std: of a normal change of it, anew for each operation; the result is kept between 0 and `largest`.
        largest: magnitude, which is the tables' own.
        probability: that an operation is done.
    """
    which = draws.integers(len(table), num_operations)
    negative, done = draws.random(num_operations) < 0.5, draws.random(num_operations) < probability
    shares = np.clip((magnitude + std * draws.normal(num_operations)) / largest, 0, 1)

    def change(picture: Image.Image, i: int) -> Image.Image:
        for k in np.flatnonzero(done[i]):
            picture = table[which[i, k]](picture, float(shares[i, k]), bool(negative[i, k]), fill)
        return picture

    return _each(images, change)


def trivial_augment(images: np.ndarray, draws: Draws, fill: Fill) -> np.ndarray:
    """One operation of the wide table, at one of its 31 magnitudes."""
    which, levels = draws.integers(len(TRIVIALAUGMENT_WIDE)), draws.integers(31)
    negative = draws.random() < 0.5

    def change(picture: Image.Image, i: int) -> Image.Image:
        return TRIVIALAUGMENT_WIDE[which[i]](picture, float(levels[i] / 30), bool(negative[i]), fill)

    return _each(images, change)


def auto_augment_cifar10(images: np.ndarray, draws: Draws, fill: Fill) -> np.ndarray:
    """One of the 25 pairs, each of its operations with its chance."""
    which, numbers = draws.integers(len(AUTOAUGMENT_CIFAR10)), draws.random(2)
    negative = draws.random(2) < 0.5

    def change(picture: Image.Image, i: int) -> Image.Image:
        for k, (row, probability, share) in enumerate(AUTOAUGMENT_CIFAR10[which[i]]):
            if numbers[i, k] < probability:
                picture = row(picture, share, bool(negative[i, k]), fill)
        return picture

    return _each(images, change)


def _each(images: np.ndarray, change: Callable[[Image.Image, int], Image.Image]) -> np.ndarray:
    """The changed images (n, H, W, C), each given as a picture with its number."""
    return np.stack([to_array(change(to_picture(image), i)) for i, image in enumerate(images)])
