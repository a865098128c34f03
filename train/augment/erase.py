"""Parts of images that are painted over."""

import math

import numpy as np

from train.augment.draws import Draws
from train.augment.pictures import Fill

_TRIES = 10
_AREAS = 0.02, 1 / 3  # share of the image that a rectangle covers
_LOG_RATIO = math.log(0.3)  # its height over width is from 0.3 to 1 / 0.3


def random_erasing(
    images: np.ndarray, draws: Draws, fill: Fill, *, probability: float = 0.5, noise: bool = False
) -> np.ndarray:
    """Paints a random rectangle of some images with `fill`, or with `noise`, random pixels.

    Zhong et al. 2017, https://arxiv.org/abs/1708.04896, Algorithm 1, with the areas and ratios of timm. Where
    none of ten rectangles lies within the image, it stays as it is.
    """
    is_erased = draws.random() < probability
    area, ratio, top, left = np.moveaxis(draws.random(_TRIES, 4), -1, 0)  # each (n, tries)
    seeds = draws.integers(2**63 - 1)

    _, height, width, _ = images.shape
    area = height * width * (_AREAS[0] + (_AREAS[1] - _AREAS[0]) * area)
    ratio = np.exp(_LOG_RATIO * (2 * ratio - 1))
    heights, widths = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (heights < height) & (widths < width)

    images = images.copy()
    for i in np.flatnonzero(is_erased & fits.any(axis=1)):
        k = int(np.argmax(fits[i]))
        h, w = int(heights[i, k]), int(widths[i, k])
        y, x = int(top[i, k] * (height - h + 1)), int(left[i, k] * (width - w + 1))
        part = images[i, y : y + h, x : x + w]
        part[...] = np.random.default_rng(seeds[i]).integers(256, size=part.shape) if noise else fill
    return images


def cutout(images: np.ndarray, draws: Draws, fill: Fill, *, size: int) -> np.ndarray:
    """Paints a square of `size` pixels with `fill`; its centre is any pixel, and what sticks out is cut off.

    DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552, Sec. 3.
    """
    corners = (draws.random(2) * images.shape[1:3]).astype(np.int64) - size // 2
    images = images.copy()
    for image, (top, left) in zip(images, corners.tolist(), strict=True):
        image[max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = fill
    return images
