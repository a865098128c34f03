"""Any object with a length and items as a source: data sources of TFDS, sets of Hugging Face or torchvision.

An item is (image, label) or a mapping with both. An image is a uint8 array (H, W, C) or (H, W), a picture of
Pillow's, or the bytes of an image file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from PIL import Image

from flaxarch.pictures import UnreadablePicture
from train.data.decode import decode_picture, resize_and_crop
from train.data.sources import DataError, Dataset, channel_stats, no_examples

_FOR_STATISTICS = 512  # images; the mean over so many is within a percent or so of that over all


class Sequence(Protocol):
    """What TFDS calls a random-access data source. Several threads read it at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def from_sequence(
    train: Sequence,
    test: Sequence | None = None,
    *,
    class_names: tuple[str, ...] | list[str],
    image_size: int | None = None,
    skip_unreadable: bool = False,
    keys: tuple[str, str] = ("image", "label"),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Dataset:
    """A data set from two objects with `__len__` and `__getitem__`, for `train.loop.train(config, data=...)`.

    >>> images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)
    >>> data = from_sequence([(images[0], 0), (images[1], 1)], class_names=("zero", "one"))
    >>> data.train.image_shape
    (8, 8, 1)

    With TFDS: `train, test = tfds.data_source("mnist", split=["train", "test"])`.

    Args:
        train: training examples. With workers they have to be picklable.
        test: test examples; None: there are none, and validation_share takes some of the training examples.
        class_names: in the order of the labels.
        image_size: side in pixels of the square that images are resized and cropped to; None: all have one
            size.
        skip_unreadable: read every example now, leave out those that fail, and name them in `unreadable`.
        keys: of image and label, where an item is a mapping.
        mean: of each channel, of pixels in [0, 1]; None: that of some hundred training images.
        std: likewise.

    Raises:
        DataError: there are no training examples, or they are not what is said here.
    """
    sources = []
    for examples, name in ((train, "training"), (test, "test")):
        if examples is None:
            continue
        if not len(examples):
            raise DataError(f"there are no {name} examples")
        source = SequenceSource(
            examples, name, tuple(class_names), image_size, keys, np.arange(len(examples))
        )
        sources.append(source.readable() if skip_unreadable else source)
    source = sources[0]
    if mean is None or std is None:
        some = np.arange(0, len(source), max(1, len(source) // _FOR_STATISTICS))
        found = channel_stats(source.load(some)[0], "the training examples")
        mean, std = mean or found[0], std or found[1]
    return Dataset(source, sources[1] if len(sources) == 2 else no_examples(source), mean, std)


@dataclass(frozen=True, eq=False)
class SequenceSource:
    """Examples that are asked of an object one by one, each time that a batch needs them."""

    examples: Sequence
    name: str  # of the split
    class_names: tuple[str, ...]
    image_size: int | None
    keys: tuple[str, str]
    indices: np.ndarray  # of those that are readable, in `examples`
    unreadable: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Labels are 0 to num_classes - 1."""
        return len(self.class_names)

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the first image, which every other one has to have."""
        height, width, channels = self._example(0)[0].shape
        return height, width, channels

    @cached_property
    def labels(self) -> np.ndarray:
        """All labels, int32 (N,). Reads every example, once."""
        return np.array([self._example(i)[1] for i in range(len(self))], np.int32)

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Examples `indices` (n,), one after the other."""
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        labels = np.empty(len(indices), np.int32)
        for i, index in enumerate(indices.tolist()):
            image, labels[i] = self._example(index)
            if image.shape != self.image_shape:
                raise DataError(
                    f"{self._name(index)} is {image.shape} and others are {self.image_shape}; "
                    "give an image_size to resize all images to, and one number of channels"
                )
            images[i] = image
        return images, labels

    def load_whole(self, indices: np.ndarray) -> tuple[Iterable[np.ndarray], np.ndarray]:
        """See `Source`."""
        whole = replace(self, image_size=None)
        images, labels = zip(*(whole._example(index) for index in indices.tolist()), strict=True)
        return images, np.array(labels, np.int32)

    def readable(self) -> "SequenceSource":
        """Those that can be read, and the names of the others."""
        kept, unreadable = [], []
        for i in range(len(self)):
            try:
                self._example(i)
                kept.append(i)
            except DataError as error:
                unreadable.append(f"{error}")
        if not kept:
            raise DataError(f"none of the {len(self)} {self.name} examples can be read; {unreadable[0]}")
        return replace(self, indices=self.indices[kept], unreadable=tuple(unreadable))

    def _name(self, index: int) -> str:
        return f"{self.name} example {self.indices[index]}"

    def _example(self, index: int) -> tuple[np.ndarray, int]:
        try:
            item = self.examples[int(self.indices[index])]
        except Exception as error:  # whatever the object raises, it is not our code
            raise DataError(f"{self._name(index)} cannot be read ({error!r})") from error
        if isinstance(item, Mapping):
            missing = [key for key in self.keys if key not in item]
            if missing:
                raise DataError(
                    f"{self._name(index)} has no {missing[0]!r} (it has {', '.join(map(str, item))}); "
                    "`keys` are those of image and label"
                )
            image, label = (item[key] for key in self.keys)
        elif isinstance(item, tuple | list) and len(item) == 2:
            image, label = item
        else:
            raise DataError(
                f"{self._name(index)} is a {type(item).__name__}; it has to be (image, label) or a mapping"
            )
        number = np.asarray(label)
        if number.dtype.kind not in "iu" or number.size != 1 or not 0 <= number.item() < self.num_classes:
            raise DataError(
                f"{self._name(index)}: the label {label!r} is out of range; "
                f"labels are whole numbers, 0 to {self.num_classes - 1}"
            )
        return self._pixels(image, index), number.item()

    def _pixels(self, image: Any, index: int) -> np.ndarray:
        if isinstance(image, bytes):
            try:
                image = decode_picture(image)
            except UnreadablePicture as error:
                raise DataError(f"{self._name(index)} does not decode ({error})") from error
        if isinstance(image, Image.Image):
            image = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        pixels = np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.size == 0:
            raise DataError(
                f"{self._name(index)}: the image is {pixels.dtype} {pixels.shape}; "
                "it has to be uint8 (H, W, C) or (H, W)"
            )
        pixels = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
        if self.image_size is None or pixels.shape[:2] == (self.image_size, self.image_size):
            return pixels
        channels = (Image.fromarray(np.ascontiguousarray(x)) for x in np.moveaxis(pixels, -1, 0))
        return np.stack([np.asarray(resize_and_crop(x, self.image_size)) for x in channels], axis=-1)
