"""A packed data set: shards of https://github.com/google/array_record, and an index.json beside them.

`python -m train.data pack` writes it from a folder of images. A record is the label (uint32), the number of
bytes of the file's name (uint16), both little-endian, the name, and the image file. Records are in the order
in which the folder lists its images, by class and name, so that the index need not hold labels: it counts the
images of each class. A pack of a folder thus gives the same batches as the folder.
"""

import json
import struct
import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from flaxarch.pictures import UnreadablePicture
from train.data.folder import IMAGENET_MEAN, IMAGENET_STD, FolderSource, open_records
from train.data.sources import ArraySource, DataError, Dataset, no_examples

FORMAT = 1
INDEX = "index.json"
_HEAD = struct.Struct("<IH")
# One record a group, so that each is read alone; JPEG does not compress further.
_WRITER = "group_size:1,uncompressed"
_READER = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32768}


class Readers:
    """The open files of a split, by number of the shard; in another process they are opened anew."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._readers: dict[int, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Readers, (self._paths,)

    def read(self, shard: int, position: int) -> bytes:
        """A record. Raises OSError where the file is gone, UnreadablePicture where it is damaged."""
        from array_record.python.array_record_module import ArrayRecordReader  # Windows has none

        path = self._paths[shard]
        try:
            with self._lock:
                if shard not in self._readers:
                    self._readers[shard] = ArrayRecordReader(str(path), **_READER)
            return self._readers[shard].read([position])[0]
        except RuntimeError as error:
            if not path.is_file():
                raise FileNotFoundError(f"{path} is gone") from error
            raise UnreadablePicture(f"{error}".splitlines()[0]) from error


@dataclass(frozen=True, eq=False)
class PackedRecords:
    """The records of one split."""

    where: Path
    class_names: tuple[str, ...]
    labels: np.ndarray  # int32 (N,)
    positions: np.ndarray  # int64 (N,): place of each image among all records of the split
    shard_names: tuple[str, ...]
    firsts: tuple[int, ...]  # place of each shard's first record
    readers: Readers = field(repr=False)

    @property
    def names(self) -> Sequence[str]:
        """SHARD[NUMBER] (NAME), read as they are asked for."""
        return _Names(self)

    def read(self, index: int) -> bytes:
        """The bytes of one image file."""
        label, _, content = parse_record(self.readers.read(*self.place(index)))
        if label != self.labels[index]:
            expected = self.labels[index]
            raise UnreadablePicture(
                f"its label is {label} and in the index {expected}: the shard is of another pack"
            )
        return content

    def keep(self, kept: np.ndarray) -> "PackedRecords":
        """The records where `kept` (N,) is true."""
        return replace(self, labels=self.labels[kept], positions=self.positions[kept])

    def place(self, index: int) -> tuple[int, int]:
        """Number of the shard, and of the record in it."""
        position = int(self.positions[index])
        shard = bisect_right(self.firsts, position) - 1
        return shard, position - self.firsts[shard]


class _Names(Sequence[str]):
    def __init__(self, records: PackedRecords) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records.labels)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        shard, position = self._records.place(index)
        place = f"{self._records.shard_names[shard]}[{position}]"
        try:
            return f"{place} ({parse_record(self._records.readers.read(shard, position))[1]})"
        except (OSError, UnreadablePicture):
            return place


def make_record(label: int, name: str, content: bytes) -> bytes:
    """A record's bytes."""
    encoded = name.encode()[: 2**16 - 1]
    return _HEAD.pack(label, len(encoded)) + encoded + content


def parse_record(record: bytes) -> tuple[int, str, bytes]:
    """Label, name and image file. Raises UnreadablePicture where the bytes are no such record."""
    try:
        label, size = _HEAD.unpack_from(record)
    except struct.error as error:
        raise UnreadablePicture("the record is shorter than its head") from error
    content = record[_HEAD.size :]
    return label, content[:size].decode(errors="replace"), content[size:]


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Writes a shard. Raises OSError where it cannot."""
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
        writer = ArrayRecordWriter(str(path), _WRITER)
        try:
            for record in records:
                writer.write(record)
        finally:
            writer.close()
    except RuntimeError as error:  # of absl's status: "write() failed: No space left on device; ..."
        raise OSError(f"{path} cannot be written: {f'{error}'.split(';')[0]}") from error


def open_packed(data_dir: Path, *, image_size: int | None, skip_unreadable: bool) -> Dataset:
    """Opens what `pack` wrote.

    Raises:
        DataError: it is not whole, or not of this format.
    """
    index = read_index(data_dir)
    splits: dict[str, ArraySource | FolderSource] = {}
    for name, split in index["splits"].items():
        records = _open_split(data_dir, tuple(index["class_names"]), split)
        source = open_records(records, image_size=image_size, skip_unreadable=skip_unreadable)
        splits[name] = replace(source, unreadable=(*split["unreadable"], *source.unreadable))
    train = splits["train"]
    return Dataset(train, splits.get("test", no_examples(train)), IMAGENET_MEAN, IMAGENET_STD)


def read_index(data_dir: Path) -> dict[str, Any]:
    """The index, once all shards are known to have the size that it tells."""
    path = data_dir / INDEX
    if not path.is_file():
        raise DataError(
            f"{data_dir} has no {INDEX}, which `python -m train.data pack` writes last; "
            "if packing was stopped, the same command finishes it"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise DataError(
                f"{path} is of format {index['format']}, and this version reads {FORMAT}; pack anew"
            )
        sizes = {x["name"]: x["bytes"] for split in index["splits"].values() for x in split["shards"]}
        counted = all(
            sum(split["class_counts"]) == sum(x["images"] for x in split["shards"])
            and len(split["class_counts"]) == len(index["class_names"])
            for split in index["splits"].values()
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not an index of packed images ({error!r}); pack anew") from error
    if not counted or "train" not in index["splits"]:
        raise DataError(f"{path} contradicts itself in its counts; pack anew")
    for name, size in sizes.items():
        shard = data_dir / name
        if not shard.is_file():
            raise DataError(f"{data_dir} lacks the shard {name}, which its {INDEX} lists; copy it again")
        if shard.stat().st_size != size:
            raise DataError(
                f"{shard} has {shard.stat().st_size} bytes and {size} in {INDEX}; copy it again, or pack anew"
            )
    return index


def _open_split(data_dir: Path, class_names: tuple[str, ...], split: dict[str, Any]) -> PackedRecords:
    shards = [shard for shard in split["shards"] if shard["images"]]
    names = tuple(shard["name"] for shard in shards)
    counts = [shard["images"] for shard in shards]
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), split["class_counts"])
    firsts = tuple(np.cumsum([0, *counts])[:-1].tolist())
    readers = Readers(tuple(data_dir / name for name in names))
    return PackedRecords(data_dir, class_names, labels, np.arange(len(labels)), names, firsts, readers)
