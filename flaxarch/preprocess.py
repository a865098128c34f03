"""From a picture to what a row's network expects: resized, cropped, normalised."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from flaxarch import registry
from flaxarch.variant import Variant

_MAX_RATIO = 100  # of a picture's sides: resized by the shorter one, a strip would take gigabytes


def preprocess(name: str) -> Callable[[Any], np.ndarray]:
    """The preprocessing with which a row's released weights were evaluated: picture -> float32 (H, W, C).

    >>> image = flaxarch.preprocess("resnet50")("cat.jpg")
    >>> logits, _ = apply(params, batch_stats, image[None], train=False)

    The function takes the path of an image file, a Pillow image, or a uint8 array (H, W, C) or (H, W). The
    shorter side is brought to the row's `resize` and the middle cut out, or where `resize` is None the whole
    image is stretched to the input size; then pixels are divided by 255, less `mean`, over `std`, with
    channels in the row's order. Equal to torchvision's transforms, and to Keras's `preprocess_input`.

    Raises ValueError, in the function, where the picture is none of these or cannot be read.
    """
    return preprocess_as(registry.published(name))


def preprocess_as(row: Variant) -> Callable[[Any], np.ndarray]:
    """As `preprocess`, for a row that the registry need not have, as one with another `input_shape`."""
    return lambda picture: _prepared(_opened(picture, row.input_shape[2]), row)


def _opened(picture: Any, channels: int) -> Any:
    """A Pillow image of as many channels."""
    from PIL import Image, UnidentifiedImageError

    if channels not in (1, 3):
        raise ValueError(f"there are no image files of {channels} channels")
    mode = "RGB" if channels == 3 else "L"
    try:
        if isinstance(picture, str | os.PathLike):
            with Image.open(picture) as image:
                return image.convert(mode)
        if not isinstance(picture, Image.Image):
            picture = _from_array(np.asarray(picture))
        return picture.convert(mode)
    except UnidentifiedImageError as error:
        raise ValueError(f"{error}") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"the image cannot be read ({error})") from error


def _from_array(array: np.ndarray) -> Any:
    from PIL import Image

    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (1, 3))
        or not array.size
    ):
        raise ValueError(
            f"a picture as an array is uint8 (H, W), (H, W, 1) or (H, W, 3), not {array.dtype} {array.shape}"
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _prepared(image: Any, row: Variant) -> np.ndarray:
    from PIL import Image

    height, width, channels = row.input_shape
    resample = Image.Resampling[row.interpolation.upper()]
    if row.resize is None:
        image = image.resize((width, height), resample)
    else:
        short, long = sorted(image.size)
        if long > _MAX_RATIO * short:
            raise ValueError(
                f"a picture of {image.size[0]}x{image.size[1]} pixels is too narrow to be cropped"
            )
        sizes = {short: row.resize, long: max(row.resize, int(row.resize * long / short))}
        image = image.resize((sizes[image.size[0]], sizes[image.size[1]]), resample)
        left, top = (round((size - cut) / 2) for size, cut in zip(image.size, (width, height), strict=True))
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, np.float32).reshape(height, width, channels) / 255
    if row.channels == "BGR":
        pixels = pixels[..., ::-1]
    return (pixels - np.asarray(row.mean, np.float32)) / np.asarray(row.std, np.float32)
