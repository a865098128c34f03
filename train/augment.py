"""Random crops and flips of training images, vectorised over a uint8 batch.

He et al. 2016, https://arxiv.org/abs/1512.03385, Sec. 4.2: pad 4 pixels on each side and crop a window of the
image's size at random from the padded image or its mirror image. The padding is black, as in torchvision's
RandomCrop.

What happens to an example depends on the generator and on the example's position in the *global* batch, so
that a process which holds a slice of the batch draws what one process holding all of it would draw.
"""

from functools import partial
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Augmentation(Protocol):
    """A random change of images that keeps their shape and type."""

    def __call__(
        self, images: np.ndarray, rng: np.random.Generator, batch_size: int, start: int = 0
    ) -> np.ndarray:
        """Augments examples `start` to `start + len(images)` of a global batch of `batch_size` examples.

        `images` is uint8 (n, H, W, C) and is left as it was; `rng` stands at the same state in every process.
        """
        ...


def unchanged(images: np.ndarray, rng: np.random.Generator, batch_size: int, start: int = 0) -> np.ndarray:
    """The images as they are."""
    return images


def pad_crop_flip(
    images: np.ndarray,
    rng: np.random.Generator,
    batch_size: int,
    start: int = 0,
    *,
    padding: int = 4,
    flip: bool = True,
) -> np.ndarray:
    """Pads by `padding` black pixels and crops back to (H, W); with `flip`, mirrors every other image or so.

    Each of the (2 * padding + 1)**2 windows is equally likely. `batch_size` and `start`: see `Augmentation`.
    """
    # Drawn for the whole global batch and then cut to the slice, so the number of processes changes no draw.
    corners = rng.integers(2 * padding + 1, size=(2, batch_size))
    mirrored = rng.random(batch_size) < 0.5
    here = slice(start, start + len(images))
    tops, lefts = corners[:, here]

    _, height, width, _ = images.shape
    margins = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    windows = sliding_window_view(np.pad(images, margins), (height, width), axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1)  # still a view: (n, 2 * padding + 1, 2 * padding + 1, H, W, C)
    crops = windows[np.arange(len(images)), tops, lefts]
    if flip:
        crops[mirrored[here]] = crops[mirrored[here], :, ::-1]
    return crops


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": unchanged,
    "crop": partial(pad_crop_flip, flip=False),  # for digits, whose mirror images are other signs
    "crop_flip": pad_crop_flip,
}
