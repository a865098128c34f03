"""Shards as webdataset writes them: many tars in which KEY.jpg and KEY.cls together are an example.

https://github.com/webdataset/webdataset: a file's key is its path up to the first dot of its name; .cls is
the label in decimal digits. Other files of a key are passed over. The tars are indexed once, by the bytes
where images begin, and read from the middle; nothing is unpacked. The index of many tars is kept in the
user's cache folder, for it takes a minute per million images.
"""

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from flaxarch.pictures import is_picture, natural, tar_members
from train.data.folder import IMAGENET_MEAN, IMAGENET_STD, TEST_SPLITS, open_records
from train.data.sources import DataError, Dataset, checked_labels, no_examples

CLASS_NAMES = "classes.txt"
KEPT_FROM = 20_000  # images, which take some seconds to index
_LABEL_BYTES = 32  # more than any label has

Index = tuple[list[str], np.ndarray, np.ndarray]  # names, labels, spans of the images


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

    def named(shards: Shards) -> Shards:
        labels = checked_labels(shards.labels, len(class_names), str(shards.tars[0].parent))
        return shards._replace(class_names=class_names, labels=labels)

    open_all = partial(open_records, image_size=image_size, skip_unreadable=skip_unreadable)
    source = open_all(named(train))
    test_tars = find_tars(data_dir, *TEST_SPLITS)
    test = open_all(named(list_shards(data_dir, test_tars))) if test_tars else no_examples(source)
    return Dataset(source, test, IMAGENET_MEAN, IMAGENET_STD)


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
    kept = _kept_index(tars)
    found = _read_index(kept)
    if found is None:
        found = _index(tars)
        if len(found[1]) >= KEPT_FROM:
            _write_index(kept, *found)
    names, labels, spans = found
    if not names:
        raise DataError(f"{where}: no shard ({tars[0].name}, ...) has an image in it")
    folders = [str(path.relative_to(where)) for path in tars]
    names = [f"{folders[number]}/{name}" for number, name in zip(spans[:, 0].tolist(), names, strict=True)]
    return Shards(where, (), names, labels, tuple(tars), spans)


def _index(tars: Sequence[Path]) -> Index:
    names: list[str] = []
    labels: list[int] = []
    spans: list[tuple[int, int, int]] = []
    for number, path in enumerate(tars):
        for name, start, size, label in _list_tar(path):
            names.append(name)
            labels.append(label)
            spans.append((number, start, size))
    return names, np.array(labels, np.int64), np.array(spans, np.int64)


def _kept_index(tars: Sequence[Path]) -> Path:
    """Where the index of these tars is kept: another place once one of them changes."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in tars]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "flaxarch" / "webdataset" / f"{hashlib.sha256(repr(stats).encode()).hexdigest()}.npz"


def _read_index(path: Path) -> Index | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            names = kept["names"].tobytes().decode(errors="surrogateescape").split("\0")
            labels, spans = kept["labels"], kept["spans"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):  # none, or a damaged one
        return None
    return (names, labels, spans) if len(names) == len(labels) == len(spans) else None


def _write_index(path: Path, names: list[str], labels: np.ndarray, spans: np.ndarray) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    joined = np.frombuffer("\0".join(names).encode(errors="surrogateescape"), np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, names=joined, labels=labels, spans=spans)
        unfinished.replace(path)
    except OSError:  # it is made anew at the next start
        with suppress(OSError):
            unfinished.unlink()


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
