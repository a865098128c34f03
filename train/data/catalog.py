"""Data sets by name."""

import difflib
from functools import partial
from pathlib import Path

from train.data.array_record import open_packed
from train.data.arrays import FASHION_MNIST, MNIST, open_digits, open_idx, open_npz
from train.data.cifar import CIFAR10, CIFAR100, open_cifar
from train.data.folder import open_folder
from train.data.sources import DataError, Dataset, ResizedSource
from train.data.webdataset import open_webdataset

ARRAYS = {
    "mnist": partial(open_idx, MNIST),
    "fashion_mnist": partial(open_idx, FASHION_MNIST),
    "npz": open_npz,
}
CIFARS = {"cifar10": CIFAR10, "cifar100": CIFAR100}
FILES = {"folder": open_folder, "packed": open_packed, "webdataset": open_webdataset}
DATASETS = tuple(sorted(("digits", *ARRAYS, *CIFARS, *FILES)))


def open_dataset(
    name: str,
    data_dir: str | Path | None,
    *,
    image_size: int | None = None,
    skip_unreadable: bool = False,
    without_test: bool = False,
) -> Dataset:
    """Opens the data set `name`, one of `DATASETS`; its reader says which files that takes.

    >>> open_dataset("digits", None).train.image_shape
    (8, 8, 1)

    Args:
        name: of the data set.
        data_dir: where its files are (for `npz`, perhaps the file itself); `digits` come with scikit-learn.
        image_size: side in pixels of the square that images in files are resized and cropped to, and those of
            other sets stretched; None is the other sets' own size.
        skip_unreadable: leave out images that do not decode, and name them in the source's `unreadable`.
        without_test: take a data set that has no test images.

    Raises:
        DataError: the name is unknown, or the files are missing or not what the data set's should be.
    """
    if name not in DATASETS:
        nearest = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0)[0]
        raise DataError(
            f"there is no data set {name!r}; the nearest name is {nearest!r} (of {', '.join(DATASETS)})"
        )
    if name == "digits":
        dataset = open_digits()
    elif data_dir is None:
        raise DataError(f"data set {name!r} needs data_dir, the folder that holds its files")
    elif not (path := Path(data_dir)).exists():
        raise DataError(f"{path}: no such file or folder; data set {name!r} is read from there")
    elif name in ARRAYS:
        dataset = ARRAYS[name](path)
    elif name in CIFARS:
        dataset = open_cifar(CIFARS[name], path, skip_unreadable=skip_unreadable)
    else:
        dataset = FILES[name](path, image_size=image_size, skip_unreadable=skip_unreadable)
    if not len(dataset.test) and not without_test:
        raise DataError(
            f"{data_dir} has no test images (test or val); add some, or hold a share of the training images "
            "back with validation_share"
        )
    return fitted(dataset, str(data_dir), image_size)


def fitted(dataset: Dataset, where: str, image_size: int | None) -> Dataset:
    """The data set with images of `image_size`. DataError where training and test do not go together."""
    train, test = dataset.train, dataset.test
    if train.class_names != test.class_names:
        different = sorted(set(train.class_names) ^ set(test.class_names))
        raise DataError(
            f"{where}: training and test classes differ; only one of the two has {', '.join(different)}"
        )
    if train.image_shape != test.image_shape:
        raise DataError(
            f"{where}: training images are {train.image_shape}, test images {test.image_shape}; "
            "they have to agree in height, width and channels"
        )
    height, width, _ = train.image_shape
    if image_size is not None and (height, width) != (image_size, image_size):
        return dataset._replace(train=ResizedSource(train, image_size), test=ResizedSource(test, image_size))
    return dataset
