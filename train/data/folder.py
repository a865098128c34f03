"""Sources of image files: class folders, or tars of them, decoded to uint8 RGB.

A split that fits in memory is decoded once, on opening; a larger one when a batch asks for its images.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flaxarch.pictures import TAR_SUFFIXES, UnreadablePicture
from train.data.decode import decode_picture, decode_pixels, resize_and_crop
from train.data.listing import Records, list_images
from train.data.sources import ArraySource, DataError, Dataset, Source, no_examples

SPLIT_SUFFIXES = ("", *TAR_SUFFIXES)
TEST_SPLITS = ("test", "val", "valid", "validation")
IN_MEMORY_BYTES = 2 * 2**30  # a split below this size, decoded, is decoded on opening

# torchvision's normalisation of ImageNet, which its released weights and most others expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class UnreadableImage(DataError):
    """An image file that does not decode."""


def decode(content: bytes, image_size: int | None) -> np.ndarray:
    """An image file's bytes to uint8 RGB (H, W, 3), or (image_size, image_size, 3).

    Raises UnreadablePicture.
    """
    if image_size is None:
        return decode_pixels(content)
    return np.asarray(resize_and_crop(decode_picture(content), image_size))


def _decode_listed(listing: Records, index: int, image_size: int | None) -> np.ndarray:
    try:
        return decode(listing.read(index), image_size)
    except FileNotFoundError as error:
        raise UnreadableImage(
            f"{listing.where / listing.names[index]} is gone since the images were listed; put it back"
        ) from error
    except (OSError, UnreadablePicture) as error:
        raise UnreadableImage(
            f"{listing.where / listing.names[index]} does not decode ({error}); "
            "repair or remove it, or allow unreadable images to be skipped"
        ) from error


def _decode_into(
    rows: np.ndarray,
    listing: Records,
    indices: Iterable[int],
    image_size: int | None,
    *,
    skip_unreadable: bool,
) -> list[int]:
    """Fills `rows` (n, H, W, 3) with images `indices`; returns the indices of those that did not decode."""
    unreadable = []
    for row, index in zip(rows, indices, strict=True):
        try:
            image = _decode_listed(listing, index, image_size)
        except UnreadableImage:
            if not skip_unreadable:
                raise
            unreadable.append(index)
            continue
        if image.shape != row.shape:
            height, width, _ = image.shape
            raise DataError(
                f"{listing.where / listing.names[index]} is {height}x{width} pixels and others are "
                f"{row.shape[0]}x{row.shape[1]}; give an image_size to resize all images to"
            )
        row[...] = image
    return unreadable


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Images that are read and decoded each time a batch asks for them."""

    listing: Records
    image_shape: tuple[int, int, int]
    image_size: int | None
    unreadable: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders."""
        return self.listing.class_names

    @property
    def num_classes(self) -> int:
        """Labels are 0 to num_classes - 1."""
        return len(self.class_names)

    @property
    def labels(self) -> np.ndarray:
        """All labels, int32 (N,)."""
        return self.listing.labels

    def __len__(self) -> int:
        return len(self.listing.names)

    def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decodes examples `indices` (n,) one after the other: it is batches that load in parallel."""
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        _decode_into(images, self.listing, indices.tolist(), self.image_size, skip_unreadable=False)
        return images, self.listing.labels[indices]

    def load_whole(self, indices: np.ndarray) -> tuple[Iterable[np.ndarray], np.ndarray]:
        """See `Source`."""
        images = (_decode_listed(self.listing, index, None) for index in indices.tolist())
        return images, self.listing.labels[indices]


def open_images(path: Path, *, image_size: int | None, skip_unreadable: bool) -> Source:
    """The source of one split: a folder of class folders, or a tar of one.

    Raises:
        DataError: an image does not decode (unless `skip_unreadable`), or sizes differ without `image_size`.
    """
    return open_records(list_images(path), image_size=image_size, skip_unreadable=skip_unreadable)


def open_records(
    listing: Records, *, image_size: int | None, skip_unreadable: bool
) -> ArraySource | FolderSource:
    """The source of one split, wherever its image files lie. Raises what `open_images` does."""
    first, shape = _first_shape(listing, image_size, skip_unreadable=skip_unreadable)
    num_images = len(listing.names)
    in_memory = num_images * int(np.prod(shape)) < IN_MEMORY_BYTES
    if not in_memory and not skip_unreadable:
        return FolderSource(listing, shape, image_size)

    # To leave images out, all are decoded once, even those of a split too large to keep: otherwise the
    # length, and with it the order of every epoch, would depend on what a run has met so far.
    images = np.empty((num_images, *shape), np.uint8) if in_memory else None

    def decode_chunk(start: int) -> list[int]:
        indices = range(start, min(start + 64, num_images))
        rows = np.empty((len(indices), *shape), np.uint8) if images is None else images[start : indices.stop]
        return _decode_into(rows, listing, indices, image_size, skip_unreadable=skip_unreadable)

    # Python's lock covers most of a small file's decoding, and threads only fight over it: 10,000 JPEGs of
    # CIFAR-10 (1 kB each) take 1.2 s with one thread, 1.7 s with two. From some 16 kB on, each core counts.
    num_threads = os.cpu_count() if len(listing.read(first)) >= 2**14 else 1
    with ThreadPoolExecutor(num_threads) as pool:
        unreadable = [index for chunk in pool.map(decode_chunk, range(0, num_images, 64)) for index in chunk]
    unreadable_names = tuple(str(listing.where / listing.names[index]) for index in unreadable)
    if unreadable:
        kept = np.ones(num_images, bool)
        kept[unreadable] = False
        listing = listing.keep(kept)
        images = None if images is None else images[kept]
    on_disk = FolderSource(listing, shape, image_size, unreadable_names)
    if images is None:
        return on_disk
    whole = on_disk if image_size else None
    return ArraySource(images, listing.labels, listing.class_names, unreadable_names, whole)


def _first_shape(
    listing: Records, image_size: int | None, *, skip_unreadable: bool
) -> tuple[int, tuple[int, int, int]]:
    """Index and (H, W, 3) of the first image that decodes; DataError if none does."""
    for index in range(len(listing.names)):
        try:
            height, width, channels = _decode_listed(listing, index, image_size).shape
        except UnreadableImage:
            if not skip_unreadable:
                raise
        else:
            return index, (height, width, channels)
    raise DataError(f"{listing.where}: none of the {len(listing.names)} images decodes")


def find_split(data_dir: Path, *names: str) -> Path | None:
    """The folder or tar of the first of `names` that `data_dir` has."""
    for name in names:
        for suffix in SPLIT_SUFFIXES:
            path = data_dir / f"{name}{suffix}"
            if path.is_file() if suffix else path.is_dir():
                return path
    return None


def open_folder(data_dir: Path, *, image_size: int | None, skip_unreadable: bool) -> Dataset:
    """Reads `train` and `test` (or `val`, `valid`, `validation`) from `data_dir`, each a folder or a tar.

    Args:
        data_dir: holds train/ or train.tar or train.tar.gz or train.tgz, and the same of test or val.
        image_size: side in pixels of the square that each image is resized and cropped to; None: all have one
            size, and keep it.
        skip_unreadable: leave out images that do not decode, and name them in the source's `unreadable`.
    """
    train_path, test_path = find_split(data_dir, "train"), find_split(data_dir, *TEST_SPLITS)
    if train_path is None:
        raise DataError(
            f"{data_dir} has no train; a folder of images has train and test (or val), "
            "each a folder of class folders or a .tar, .tar.gz or .tgz of one"
        )
    train = open_images(train_path, image_size=image_size, skip_unreadable=skip_unreadable)
    if test_path is None:
        return Dataset(train, no_examples(train), IMAGENET_MEAN, IMAGENET_STD)
    test = open_images(test_path, image_size=image_size, skip_unreadable=skip_unreadable)
    return Dataset(train, test, IMAGENET_MEAN, IMAGENET_STD)
