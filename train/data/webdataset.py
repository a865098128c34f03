"""Shards as webdataset writes them: many tars in which KEY.jpg and KEY.cls, one after the other, are an example.

https://github.com/webdataset/webdataset: a file's key is its path up to the first dot of its name; .cls is the
label in decimal digits. Other files of a key are passed over. The tars are indexed once, by the bytes where
images begin, and read from the middle; nothing is unpacked.
"""

import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxarch.pictures import is_picture, natural, tar_members
from train.data.folder import IMAGENET_MEAN, IMAGENET_STD, TEST_SPLITS, open_records
from train.data.sources import DataError, Dataset, checked_labels, no_examples

CLASS_NAMES = "classes.txt"
_LABEL_BYTES = 32  # more than any label has


class Shards(NamedTuple):
    """The images of one split; `names` are the tar's, "/", and the member's."""

    where: Path
    class_names: tuple[str, ...]
    names: Sequence[str]
    labels: np.ndarray  # int32 (N,)
    tars: tuple[Path, ...]
    spans: np.ndarray  # int64 (N, 3): number of the tar, first byte and number of bytes of each image

    def read(self, index: int) -> bytes:
        """The bytes of one image file."""
        number, start, size = self.spans[index].tolist()
        with self.tars[number].open("rb") as tar:
            tar.seek(start)
            return tar.read(size)

    def keep(self, kept: np.ndarray) -> "Shards":
        """The images where `kept` (N,) is true."""
        names = [name for name, keep in zip(self.names, kept, strict=True) if keep]
        return self._replace(names=names, labels=self.labels[kept], spans=self.spans[kept])


def open_webdataset(data_dir: Path, *, image_size: int | None, skip_unreadable: bool) -> Dataset:
    """Reads the shards of `train` and of `test` (or `val`, `valid`, `validation`) from `data_dir`.

    A split is a folder of that name with tars in it, or all tars in `data_dir` with that word in their names.
    In classes.txt there may be a line for each class, in the order of the labels; without it the largest
    training label tells the number of classes.
    """
    train_tars = find_tars(data_dir, "train")
    if not train_tars:
        raise DataError(
            f"{data_dir} has no shards of train; a webdataset has tars with train in their names, or in a "
            "folder train"
        )
    train = list_shards(data_dir, train_tars)
    class_names = _class_names(data_dir) or tuple(map(str, range(int(train.labels.max()) + 1)))

    def open_split(shards: Shards) -> Shards:
        labels = checked_labels(shards.labels, len(class_names), str(shards.tars[0].parent))
        return shards._replace(class_names=class_names, labels=labels)

    sizes = {"image_size": image_size, "skip_unreadable": skip_unreadable}
    source = open_records(open_split(train), **sizes)
    test_tars = find_tars(data_dir, *TEST_SPLITS)
    test = open_records(open_split(list_shards(data_dir, test_tars)), **sizes) if test_tars else None
    return Dataset(source, test or no_examples(source), IMAGENET_MEAN, IMAGENET_STD)


def find_tars(data_dir: Path, *names: str) -> tuple[Path, ...]:
    """The tars of the first of `names` that has any, shard2 before shard10."""
    for name in names:
        inside = [*(data_dir / name).glob("*.tar")]
        beside = [path for path in data_dir.glob("*.tar") if name in re.split("[^a-z]+", path.stem.lower())]
        if tars := inside or beside:
            return tuple(sorted(tars, key=lambda path: natural(path.name)))
    return ()


def list_shards(where: Path, tars: Sequence[Path]) -> Shards:
    """Indexes tars, in their order. Labels are as they stand there, and classes have no names yet."""
    names: list[str] = []
    labels: list[int] = []
    spans: list[tuple[int, int, int]] = []
    for number, path in enumerate(tars):
        for name, start, size, label in _list_tar(path):
            names.append(f"{path.relative_to(where)}/{name}")
            labels.append(label)
            spans.append((number, start, size))
    if not names:
        raise DataError(f"{where}: no shard ({tars[0].name}, ...) has an image in it")
    return Shards(where, (), names, np.array(labels), tuple(tars), np.array(spans, np.int64))


def _list_tar(path: Path) -> list[tuple[str, int, int, int]]:
    """Name, first byte, number of bytes and label of each image."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with path.open("rb") as stream:
            for member, _ in tar_members(stream):
                folder, slash, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                key = f"{folder}{slash}{stem}"
                if not member.isreg() or not stem:
                    continue
                if kind == "cls":
                    stream.seek(member.offset_data)
                    labels[key] = _label(stream.read(min(member.size, _LABEL_BYTES)), f"{path}/{member.name}")
                elif is_picture(f"x.{kind}"):
                    if key in images:
                        raise DataError(
                            f"{path} has two images of the key {key}: {images[key][0]} and {member.name}"
                        )
                    images[key] = member.name, member.offset_data, member.size
    except tarfile.TarError as error:
        raise DataError(f"{path} is not a whole tar file ({error})") from error
    alone = sorted(images.keys() ^ labels.keys(), key=natural)
    if alone:
        has, lacks = ("an image", "cls") if alone[0] in images else ("a .cls", "jpg (or other image)")
        raise DataError(f"{path}: {alone[0]} has {has} and no {alone[0]}.{lacks}; each example needs both")
    return [(*image, labels[key]) for key, image in images.items()]


def _label(content: bytes, name: str) -> int:
    try:
        return int(content)
    except ValueError as error:
        raise DataError(f"{name} is {content!r}; a label is a whole number in decimal digits") from error


def _class_names(data_dir: Path) -> tuple[str, ...]:
    path = data_dir / CLASS_NAMES
    return tuple(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()
