"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the binary version, the Python version, or folders of images.

A record of the binary version is one label byte (CIFAR-100: two, coarse and fine) and the 3,072 bytes of a
(3, 32, 32) image. A file of the Python version is a pickled dict of the same bytes as an array (N, 3072) and
the labels as a list; our own reader builds arrays and plain containers from it and executes nothing.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxarch.convert.constructors import NUMPY_CONSTRUCTORS
from flaxarch.convert.unpickle import CheckpointError, unpickle
from train.data.folder import find_split, open_folder
from train.data.sources import ArraySource, DataError, Dataset, checked_labels

IMAGE_SHAPE = (32, 32, 3)
IMAGE_BYTES = 3 * 32 * 32


class Version(NamedTuple):
    """The files of one of the two downloads."""

    folder: str  # that the download unpacks to
    train: tuple[str, ...]
    test: str


class Cifar(NamedTuple):
    """What differs between CIFAR-10 and CIFAR-100."""

    binary: Version
    label_bytes: int  # of a binary record; the last one is the label
    python: Version
    label_key: str  # in the Python version's dict
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR10 = Cifar(
    binary=Version(
        "cifar-10-batches-bin", tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"
    ),
    label_bytes=1,
    python=Version("cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
    label_key="labels",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    # Over all training pixels. The std often seen, (0.2023, 0.1994, 0.2010), is the mean of each image's own.
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
bowl boy bridge bus butterfly camel can castle caterpillar cattle
chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
plain plate poppy porcupine possum rabbit raccoon ray road rocket
rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR100 = Cifar(
    binary=Version("cifar-100-binary", ("train.bin",), "test.bin"),
    label_bytes=2,
    python=Version("cifar-100-python", ("train",), "test"),
    label_key="fine_labels",
    class_names=tuple(CIFAR100_NAMES.split()),
    mean=(0.5071, 0.4865, 0.4409),  # over all training pixels, as weiaicunzai/pytorch-cifar100 prints them
    std=(0.2673, 0.2564, 0.2762),
)


def open_cifar(cifar: Cifar, data_dir: Path, *, skip_unreadable: bool) -> Dataset:
    """Reads whichever version lies in `data_dir`, or there in the folder that the download unpacks to.

    Raises:
        DataError: there is none, part of one is missing, or a file is not what it should be.
    """
    for version, read in ((cifar.binary, _read_binary), (cifar.python, _read_python)):
        folder = _find(version, data_dir)
        if folder is not None:
            images, labels = zip(*(read(cifar, folder / name) for name in version.train), strict=True)
            train = ArraySource(np.concatenate(images), np.concatenate(labels), cifar.class_names)
            test = ArraySource(*read(cifar, folder / version.test), cifar.class_names)
            return Dataset(train, test, cifar.mean, cifar.std)

    if find_split(data_dir, "train") is None:
        raise DataError(
            f"{data_dir} has no {cifar.binary.test} (binary), no {cifar.python.test} (Python), "
            f"no folder {cifar.binary.folder} or {cifar.python.folder} with these, "
            "and no train or train.tar.gz with a folder of images for each class"
        )
    dataset = open_folder(data_dir, image_size=None, skip_unreadable=skip_unreadable)
    if dataset.train.class_names != cifar.class_names or dataset.train.image_shape != IMAGE_SHAPE:
        raise DataError(
            f"{data_dir} holds {dataset.train.image_shape} images of {dataset.train.num_classes} classes "
            f"({', '.join(dataset.train.class_names[:3])}, ...), which are not this CIFAR's; "
            "open other images as data set 'folder'"
        )
    return dataset._replace(mean=cifar.mean, std=cifar.std)


def _find(version: Version, data_dir: Path) -> Path | None:
    """The folder that holds all files of the version; None if no folder holds any."""
    for folder in (data_dir, data_dir / version.folder):
        missing = [name for name in (*version.train, version.test) if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) <= len(version.train):
            raise DataError(
                f"{folder} lacks {', '.join(missing)}, but has other files of that download; unpack it again"
            )
    return None


def _read_binary(cifar: Cifar, path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = np.fromfile(path, np.uint8)
    record_size = cifar.label_bytes + IMAGE_BYTES
    if content.size == 0 or content.size % record_size:
        raise DataError(
            f"{path} holds {content.size} bytes, which is no multiple of the {record_size} of a record; "
            "it is not whole, or of the other CIFAR"
        )
    records = content.reshape(-1, record_size)
    return _examples(cifar, path, records[:, cifar.label_bytes :], records[:, cifar.label_bytes - 1])


def _read_python(cifar: Cifar, path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as stream:
            batch = unpickle(stream, NUMPY_CONSTRUCTORS, what=str(path))
    except CheckpointError as error:
        raise DataError(f"{error}; unpack the download again") from error
    # The keys are text as Python 2 wrote them, and bytes where Python 3 has written the file anew.
    batch = {_text(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
    pixels, labels = batch.get("data"), batch.get(cifar.label_key)
    if not (
        isinstance(labels, list)
        and all(type(label) is int for label in labels)
        and isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.shape == (len(labels), IMAGE_BYTES)
    ):
        raise DataError(
            f"{path} is not a dict of 'data', uint8 (N, {IMAGE_BYTES}), and {cifar.label_key!r}, a list of N "
            "integers; it is damaged or of the other CIFAR"
        )
    return _examples(cifar, path, pixels, np.array(labels))


def _text(key: object) -> object:
    return key.decode("latin-1") if isinstance(key, bytes) else key


def _examples(
    cifar: Cifar, path: Path, pixels: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pixels (N, 3072), channels first, to images (N, 32, 32, 3); labels checked."""
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), checked_labels(labels, len(cifar.class_names), str(path))
