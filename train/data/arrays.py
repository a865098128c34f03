"""Data sets that are arrays: scikit-learn's digits, the IDX files of MNIST and its kin, and .npz files."""

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from train.data.sources import ArraySource, DataError, Dataset, channel_stats, checked_labels

DIGITS = tuple("0123456789")


def open_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8x1: 1,437 to train on and 360 to test on.

    The values 0 to 16 become 0 to 255. The split is fixed: of the examples sorted by class (within a class,
    in their own order) every fifth, from the first on, is a test example. So each class gives a fifth.
    """
    from sklearn.datasets import load_digits  # takes a second, which other data sets need not spend

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = np.asarray(labels, np.int32)
    in_test = np.zeros(len(labels), bool)
    in_test[np.argsort(labels, kind="stable")[::5]] = True
    train = ArraySource(images[~in_test], labels[~in_test], DIGITS)
    test = ArraySource(images[in_test], labels[in_test], DIGITS)
    return Dataset(train, test, *channel_stats(train.images, "digits"))


class IdxSet(NamedTuple):
    """A data set kept in MNIST's four IDX files."""

    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


# Over all pixels of the training images, rounded as PyTorch's MNIST example and many others print them.
MNIST = IdxSet(DIGITS, (0.1307,), (0.3081,))
# Xiao et al. 2017, https://arxiv.org/abs/1708.07747; names: Table 2. Statistics over all training pixels.
FASHION_MNIST = IdxSet(
    (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    (0.2860,),
    (0.3530,),
)


def open_idx(idx_set: IdxSet, data_dir: Path) -> Dataset:
    """Reads train- and t10k-{images-idx3,labels-idx1}-ubyte, each plain or with .gz, from `data_dir`."""
    train = _idx_source(idx_set, data_dir, "train")
    test = _idx_source(idx_set, data_dir, "t10k")
    return Dataset(train, test, idx_set.mean, idx_set.std)


def _idx_source(idx_set: IdxSet, data_dir: Path, split: str) -> ArraySource:
    images_path, images = _read_idx(data_dir, f"{split}-images-idx3-ubyte", num_axes=3)
    labels_path, labels = _read_idx(data_dir, f"{split}-labels-idx1-ubyte", num_axes=1)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels; "
            "they have to be files of one download"
        )
    labels = checked_labels(labels, len(idx_set.class_names), str(labels_path))
    return ArraySource(images[..., np.newaxis], labels, idx_set.class_names)


def _read_idx(data_dir: Path, name: str, *, num_axes: int) -> tuple[Path, np.ndarray]:
    """The file's path and its uint8 array.

    An IDX file is four bytes (0, 0, type: 8 for uint8, number of axes), the length of each axis as big-endian
    uint32, and the values.
    """
    candidates = (data_dir / name, data_dir / f"{name}.gz")
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise DataError(f"{data_dir} has neither {name} nor {name}.gz, which this data set needs")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}); download it again") from error

    magic = bytes((0, 0, 8, num_axes))
    if content[:4] != magic:
        raise DataError(
            f"{path} starts with the bytes {content[:4].hex()}; an IDX file of uint8 with {num_axes} axes "
            f"starts with {magic.hex()}"
        )
    header_size = 4 + 4 * num_axes
    if len(content) < header_size:
        raise DataError(f"{path} ends within its header; download it again")
    shape = tuple(np.frombuffer(content, ">u4", num_axes, offset=4).tolist())
    expected = header_size + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected or shape[0] == 0:
        raise DataError(
            f"{path} holds {len(content)} bytes, but its header announces {shape}, which takes {expected}; "
            "download it again"
        )
    return path, np.frombuffer(content, np.uint8, offset=header_size).reshape(shape)


def open_npz(path: Path) -> Dataset:
    """Reads one .npz file, or a folder with train.npz and test.npz.

    The one file holds `train_images`, `train_labels`, `test_images`, `test_labels`; each of the two holds
    `images` and `labels`. Images are uint8 (N, H, W, C) or (N, H, W); labels are integers (N,), and the
    largest training label tells the number of classes.
    """
    if path.is_dir():
        train_images, train_labels = _read_npz(path / "train.npz", "images", "labels")
        test_images, test_labels = _read_npz(path / "test.npz", "images", "labels")
    else:
        train_images, train_labels = _read_npz(path, "train_images", "train_labels")
        test_images, test_labels = _read_npz(path, "test_images", "test_labels")
    num_classes = int(train_labels.max()) + 1
    class_names = tuple(str(label) for label in range(num_classes))
    train = ArraySource(
        train_images, checked_labels(train_labels, num_classes, f"{path}, training labels"), class_names
    )
    test = ArraySource(
        test_images, checked_labels(test_labels, num_classes, f"{path}, test labels"), class_names
    )
    return Dataset(train, test, *channel_stats(train_images, str(path)))


def _read_npz(path: Path, images_key: str, labels_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Images with a channel axis, and their labels as they stand in the file."""
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; 'npz' reads one .npz file or a folder with train.npz and test.npz"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [key for key in (images_key, labels_key) if key not in arrays]
            if missing:
                raise DataError(f"{path} lacks the arrays {missing}; it holds {sorted(arrays)}")
            images, labels = arrays[images_key], arrays[labels_key]
    except DataError:
        raise
    except (ValueError, EOFError, OSError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a whole .npz file of plain arrays ({error})") from error

    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.size == 0:
        raise DataError(
            f"{path}: {images_key!r} is {images.dtype} {images.shape}; "
            "it has to be uint8 (N, H, W, C) or (N, H, W) with N above 0"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise DataError(
            f"{path}: {labels_key!r} is {labels.dtype} {labels.shape}; it has to be integers ({len(images)},)"
        )
    return images if images.ndim == 4 else images[..., np.newaxis], labels
