"""Where the images of one split lie: a folder of class folders, or a tar of one.

Classes are in alphabetical order, images in order of class and name, so that a folder and any tar of it make
the same source. Hidden files are passed over. Nothing is ever unpacked to disk.
"""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, Self

import numpy as np

from flaxarch.pictures import SUFFIXES, is_picture, tar_members, walk
from train.data.sources import DataError

UNPACKED_BYTES = 2 * 2**30  # the largest gzipped tar that is held in memory


class Records(Protocol):
    """The image files of one split and their labels, wherever they lie; can be sent to another process."""

    @property
    def where(self) -> Path:
        """What holds the files; their names begin there."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the labels."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """A name for each file, by which its user finds it."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Labels, int32 (N,)."""
        ...

    def read(self, index: int) -> bytes:
        """The bytes of one file. Raises OSError or UnreadablePicture."""
        ...

    def keep(self, kept: np.ndarray) -> Self:
        """Those where `kept` (N,) is true."""
        ...


class Listing(NamedTuple):
    """The images of one split; `names` are relative to the folder or tar `where` and begin with the class."""

    where: Path
    class_names: tuple[str, ...]
    names: Sequence[str]
    labels: np.ndarray  # int32 (N,)
    spans: np.ndarray | None = None  # in a tar: int64 (N, 2), first byte and number of bytes of each file
    content: bytes | None = None  # of a gzipped tar, which cannot be read from the middle: all, unpacked

    def read(self, index: int) -> bytes:
        """The bytes of one file."""
        if self.spans is None:
            return (self.where / self.names[index]).read_bytes()
        start, size = self.spans[index].tolist()
        if self.content is not None:
            return self.content[start : start + size]
        with self.where.open("rb") as tar:
            tar.seek(start)
            return tar.read(size)

    def keep(self, kept: np.ndarray) -> "Listing":
        """The listing of the images where `kept` (N,) is true."""
        names = [name for name, keep in zip(self.names, kept, strict=True) if keep]
        spans = None if self.spans is None else self.spans[kept]
        return self._replace(names=names, labels=self.labels[kept], spans=spans)


def list_images(path: Path) -> Listing:
    """Lists a folder of class folders, or a tar of one."""
    return _list_folder(path) if path.is_dir() else _list_tar(path)


def _list_folder(folder: Path) -> Listing:
    classes = {
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
    }
    names: list[str] = []
    for name in classes:
        names += [f"{name}/{inside}" for inside in walk(folder / name)]
    return Listing(folder, *_by_class(folder, classes, names))


def _list_tar(path: Path) -> Listing:
    content = _gunzip(path) if path.suffix in (".gz", ".tgz") else None
    folders: set[str] = set()
    files: dict[str, tuple[int, int]] = {}  # of two members with one name the later counts, as in unpacking
    try:
        with path.open("rb") if content is None else io.BytesIO(content) as stream:
            for member, _ in tar_members(stream):
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise DataError(f"{path}: member {member.name} lies outside the archive's own folder")
                if not name.parts or any(part.startswith(".") for part in name.parts):
                    continue
                if member.isdir():
                    folders.add(str(name))
                elif not member.isreg() or member.issparse():
                    raise DataError(
                        f"{path}: member {member.name} is a link or a special file; pack regular files only"
                    )
                elif is_picture(name.name):
                    files[str(name)] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise DataError(f"{path} is not a whole tar file ({error})") from error

    # `tar cf train.tar train` puts the split's folder on top; but CIFAR-100 has a class called "train".
    top = path.name.split(".")[0]
    if all(name.startswith(f"{top}/") and name.count("/") >= 2 for name in files):
        files = {name.removeprefix(f"{top}/"): span for name, span in files.items()}
        folders = {name.removeprefix(f"{top}/") for name in folders if name != top}
    names = [name for name in files if "/" in name]
    class_names, names, labels = _by_class(path, {_class_of(name) for name in (*folders, *names)}, names)
    spans = np.array([files[name] for name in names], np.int64)
    return Listing(path, class_names, names, labels, spans, content)


def _class_of(name: str) -> str:
    return name.partition("/")[0]


def _by_class(
    where: Path, classes: set[str], names: list[str]
) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """The classes in order, the names in order of class and name, and their labels."""
    if not classes:
        raise DataError(
            f"{where} has no class folders; each image has to lie in a folder named for its class"
        )
    empty = sorted(classes - {_class_of(name) for name in names})
    if empty:
        raise DataError(f"{where}: no image ({', '.join(SUFFIXES)}) in class folder {', '.join(empty)}")
    class_names = tuple(sorted(classes))
    names = sorted(names, key=lambda name: (_class_of(name), name))
    label_of = {name: label for label, name in enumerate(class_names)}
    return class_names, names, np.array([label_of[_class_of(name)] for name in names], np.int32)


def _gunzip(path: Path) -> bytes:
    try:
        with gzip.open(path) as stream:
            content = stream.read(UNPACKED_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error})") from error
    if len(content) > UNPACKED_BYTES:
        raise DataError(
            f"{path} unpacks to more than {UNPACKED_BYTES} bytes, and gzip cannot be read from the middle; "
            "gunzip it to a plain tar"
        )
    return content
