"""Operations on one image, by Pillow; each takes a picture, a strength, and the colour of what is uncovered.

They are those of AutoAugment (Cubuk et al. 2019, https://arxiv.org/abs/1805.09501, Table 6), as torchvision
and timm have them, and equal torchvision's with bilinear interpolation. Pictures are grey or RGB.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Fill = tuple[int, ...]  # one level per channel
Operation = Callable[[Image.Image, float, Fill], Image.Image]


def to_picture(image: np.ndarray) -> Image.Image:
    """uint8 (H, W, 1) or (H, W, 3) as Pillow has it."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def to_array(picture: Image.Image) -> np.ndarray:
    """A picture as uint8 (H, W, 1) or (H, W, 3)."""
    array = np.asarray(picture)
    return array[..., np.newaxis] if array.ndim == 2 else array


def identity(picture: Image.Image, _: float, __: Fill) -> Image.Image:
    """The picture as it is."""
    return picture


def shear_x(picture: Image.Image, slope: float, fill: Fill) -> Image.Image:
    """Moves each row to the left by `slope` pixels per pixel below the top."""
    return _affine(picture, (1, slope, 0, 0, 1, 0), fill)


def shear_y(picture: Image.Image, slope: float, fill: Fill) -> Image.Image:
    """Moves each column up by `slope` pixels per pixel from the left."""
    return _affine(picture, (1, 0, 0, slope, 1, 0), fill)


def translate_x(picture: Image.Image, pixels: float, fill: Fill) -> Image.Image:
    """Moves to the right, by whole pixels."""
    return _affine(picture, (1, 0, -int(pixels), 0, 1, 0), fill)


def translate_y(picture: Image.Image, pixels: float, fill: Fill) -> Image.Image:
    """Moves down, by whole pixels."""
    return _affine(picture, (1, 0, 0, 0, 1, -int(pixels)), fill)


def translate_x_by_share(picture: Image.Image, share: float, fill: Fill) -> Image.Image:
    """Moves to the right by a share of the width, rounded towards none."""
    return translate_x(picture, share * picture.width, fill)


def translate_y_by_share(picture: Image.Image, share: float, fill: Fill) -> Image.Image:
    """Moves down by a share of the height, rounded towards none."""
    return translate_y(picture, share * picture.height, fill)


def rotate(picture: Image.Image, degrees: float, fill: Fill) -> Image.Image:
    """Turns about the centre, counter-clockwise."""
    return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_colour(fill))


def brightness(picture: Image.Image, change: float, _: Fill) -> Image.Image:
    """All levels times 1 + change."""
    return ImageEnhance.Brightness(picture).enhance(1 + change)


def color(picture: Image.Image, change: float, _: Fill) -> Image.Image:
    """Distance from the grey picture times 1 + change; nothing happens to a grey one."""
    return ImageEnhance.Color(picture).enhance(1 + change) if picture.mode == "RGB" else picture


def contrast(picture: Image.Image, change: float, _: Fill) -> Image.Image:
    """Distance from the mean grey level times 1 + change."""
    return ImageEnhance.Contrast(picture).enhance(1 + change)


def sharpness(picture: Image.Image, change: float, _: Fill) -> Image.Image:
    """Distance from the smoothed picture times 1 + change."""
    return ImageEnhance.Sharpness(picture).enhance(1 + change)


def posterize(picture: Image.Image, bits: float, _: Fill) -> Image.Image:
    """Clears the lowest `bits` of the 8 bits of each level, rounded down."""
    return picture.point([level & (0xFF << int(bits)) & 0xFF for level in range(256)] * len(picture.mode))


def solarize(picture: Image.Image, threshold: float, _: Fill) -> Image.Image:
    """Inverts levels from `threshold` on."""
    return ImageOps.solarize(picture, threshold)  # pyright: ignore[reportArgumentType]  # any number will do


def solarize_add(picture: Image.Image, added: float, _: Fill) -> Image.Image:
    """Adds to levels below 128, up to white."""
    table = [min(255, level + int(added)) if level < 128 else level for level in range(256)]
    return picture.point(table * len(picture.mode))


def auto_contrast(picture: Image.Image, _: float, __: Fill) -> Image.Image:
    """Stretches the levels of each channel from 0 to 255."""
    return ImageOps.autocontrast(picture)


def equalize(picture: Image.Image, _: float, __: Fill) -> Image.Image:
    """Makes all levels of each channel about equally frequent."""
    return ImageOps.equalize(picture)


def invert(picture: Image.Image, _: float, __: Fill) -> Image.Image:
    """255 less each level."""
    return ImageOps.invert(picture)


def _affine(picture: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=_colour(fill),  # pyright: ignore[reportArgumentType]  # annotated as text only
    )


def _colour(fill: Fill) -> Any:
    return fill[0] if len(fill) == 1 else fill
