"""Random crops and mirror images, of a batch at once where the images have one size."""

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from train.augment.draws import Draws
from train.augment.pictures import to_array, to_picture


def pad_crop(images: np.ndarray, draws: Draws, *, padding: int = 4, reflect: bool = False) -> np.ndarray:
    """Pads each side by `padding` pixels and crops back to (H, W): each window is equally likely.

    He et al. 2016, https://arxiv.org/abs/1512.03385, Sec. 4.2. The padding is black, as in torchvision's
    RandomCrop, or the image's mirror image at its edge.
    """
    tops, lefts = draws.integers(2 * padding + 1, 2).T
    _, height, width, _ = images.shape
    margins = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(images, margins, mode="reflect") if reflect else np.pad(images, margins)
    windows = sliding_window_view(padded, (height, width), axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1)  # still a view: (n, 2 * padding + 1, 2 * padding + 1, H, W, C)
    return windows[np.arange(len(images)), tops, lefts]


def flip(images: np.ndarray, draws: Draws) -> np.ndarray:
    """Mirrors every other image or so, left to right."""
    return _mirrored(images, draws.random() < 0.5)


def alternating_flip(images: np.ndarray, draws: Draws) -> np.ndarray:
    """Mirrors an image in every other epoch: in the even ones or in the odd ones, by a coin of its own.

    Jordan 2024, https://arxiv.org/abs/2404.00498, Sec. 3.6: any two epochs in a row see both forms.
    """
    coins = _coins(draws.seed, draws.num_examples)[draws.indices]
    return _mirrored(images, coins ^ bool(draws.epoch % 2))


@lru_cache(maxsize=2)
def _coins(seed: int, num_examples: int) -> np.ndarray:
    return np.random.default_rng((seed, num_examples)).random(num_examples) < 0.5


def _mirrored(images: np.ndarray, which: np.ndarray) -> np.ndarray:
    images = images.copy()
    images[which] = images[which, :, ::-1]
    return images


_TRIES = 10  # as in torchvision and timm, until a rectangle fits into the image


def inception_crop(
    images: Iterable[np.ndarray],
    draws: Draws,
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random part of each image, resized to `size` (height, width).

    Szegedy et al. 2015, https://arxiv.org/abs/1409.4842, Sec. 6, as torchvision's RandomResizedCrop: share of
    the area from `scale`, width over height from `ratio`, uniform in its logarithm; bilinear, antialiased.

    Args:
        images: whole, each uint8 (H, W, C) of its own size.
        draws: of these examples.
        size: of the results.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height.
    """
    numbers = draws.random(_TRIES, 4)
    out_height, out_width = size
    crops = []
    for image, u in zip(images, numbers, strict=True):
        left, top, width, height = crop_box(image.shape[1], image.shape[0], u, scale, ratio)
        part = to_picture(image[top : top + height, left : left + width])
        crops.append(to_array(part.resize((out_width, out_height), Image.Resampling.BILINEAR)))
    return np.stack(crops)


def crop_box(
    width: int, height: int, u: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a part of an image, from numbers (tries, 4) in [0, 1).

    Where no try fits, the largest part in the middle whose ratio is in bounds.
    """
    areas = width * height * (scale[0] + (scale[1] - scale[0]) * u[:, 0])
    ratios = np.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * u[:, 1])
    widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = np.flatnonzero((widths > 0) & (widths <= width) & (heights > 0) & (heights <= height))
    if fits.size:
        i = fits[0]
        w, h = int(widths[i]), int(heights[i])
        return int(u[i, 2] * (width - w + 1)), int(u[i, 3] * (height - h + 1)), w, h
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (width - w) // 2, (height - h) // 2, w, h
