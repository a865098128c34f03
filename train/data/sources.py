"""What a data set is to the trainer: two sources of examples, and the statistics that normalise pixels."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


class DataError(ValueError):
    """Data that cannot be read as asked; the message says what is wrong, where, and what would be right."""


class Source(Protocol):
    """Examples by index.

    Sources never change, may be read by several threads at once, and can be sent to another process.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the labels."""
        ...

    @property
    def num_classes(self) -> int:
        """Labels are 0 to num_classes - 1."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C), the same for every image."""
        ...

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The files that did not decode and were left out, by name."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """All labels, int32 (N,)."""
        ...

    def __len__(self) -> int: ...

    def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Examples `indices` (n,): images uint8 (n, H, W, C) and labels int32 (n,)."""
        ...

    def load_whole(self, indices: np.ndarray) -> tuple[Iterable[np.ndarray], np.ndarray]:
        """Examples `indices` (n,) to crop from: images uint8 one by one, each at its own size."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Examples held in memory: images uint8 (N, H, W, C), labels int32 (N,)."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    unreadable: tuple[str, ...] = ()
    whole: Source | None = None  # where the images come from, if they were resized

    @property
    def num_classes(self) -> int:
        """Labels are 0 to num_classes - 1."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C), the same for every image."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Examples `indices` (n,): copies of their images and labels."""
        return self.images[indices], self.labels[indices]

    def load_whole(self, indices: np.ndarray) -> tuple[Iterable[np.ndarray], np.ndarray]:
        """See `Source`."""
        return self.load(indices) if self.whole is None else self.whole.load_whole(indices)


@dataclass(frozen=True, eq=False)
class DerivedSource:
    """What a source that is made of another one takes over from it."""

    source: Source

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the labels."""
        return self.source.class_names

    @property
    def num_classes(self) -> int:
        """Labels are 0 to num_classes - 1."""
        return self.source.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C), the same for every image."""
        return self.source.image_shape

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The files of the whole source that did not decode."""
        return self.source.unreadable

    @property
    def labels(self) -> np.ndarray:
        """All labels, int32 (N,)."""
        return self.source.labels

    def __len__(self) -> int:
        return len(self.labels)

    def load_whole(self, indices: np.ndarray) -> tuple[Iterable[np.ndarray], np.ndarray]:
        """See `Source`."""
        return self.source.load_whole(indices)


@dataclass(frozen=True, eq=False)
class ResizedSource(DerivedSource):
    """The examples of another source, stretched to `size` x `size` pixels, bilinearly, as they are loaded."""

    size: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C), the same for every image."""
        return self.size, self.size, self.source.image_shape[2]

    def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Examples `indices` (n,): resized images and labels."""
        images, labels = self.source.load(indices)
        resized = np.empty((len(labels), *self.image_shape), np.uint8)
        for place, image in zip(resized, images, strict=True):
            place[...] = self._resized(image)
        return resized, labels

    def _resized(self, image: np.ndarray) -> np.ndarray:
        channels = [Image.fromarray(channel) for channel in np.moveaxis(image, -1, 0)]
        size = (self.size, self.size)
        return np.stack([np.asarray(x.resize(size, Image.Resampling.BILINEAR)) for x in channels], axis=-1)


class Dataset(NamedTuple):
    """Sources of training, test and validation examples with the same classes and image shape.

    `test` is empty where there is none, and `validation` None where the test examples serve in its place.
    `mean` and `std` are per channel, of pixels in [0, 1].
    """

    train: Source
    test: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: Source | None = None


def no_examples(like: Source) -> ArraySource:
    """A source without examples, of the classes and the image shape of another one."""
    return ArraySource(np.zeros((0, *like.image_shape), np.uint8), np.zeros(0, np.int32), like.class_names)


def checked_labels(labels: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """`labels` as int32; DataError if one lies outside 0 to num_classes - 1."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        first = int(outside[0])
        raise DataError(
            f"{where}: label {labels[first]} of example {first} is out of range; "
            f"labels are 0 to {num_classes - 1}"
        )
    return labels.astype(np.int32)


def channel_stats(images: np.ndarray, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (N, H, W, C), for pixels in [0, 1]."""
    total = np.zeros(images.shape[-1])
    squares = np.zeros(images.shape[-1])
    for start in range(0, len(images), 1024):  # float64 copies of a part at a time
        pixels = images[start : start + 1024].astype(np.float64)
        total += pixels.sum(axis=(0, 1, 2))
        squares += (pixels**2).sum(axis=(0, 1, 2))
    count = images.size // images.shape[-1]
    mean = total / count
    variance = squares / count - mean**2  # sums of integers are exact, so nothing cancels
    if (variance <= 0).any():
        channel = int(np.argmin(variance))
        raise DataError(f"{where}: channel {channel} has one value in all pixels and so cannot be normalised")
    return tuple((mean / 255).tolist()), tuple((np.sqrt(variance) / 255).tolist())
