"""Reads zip files: the directory at the end, and entries as arrays of bytes, within bounds.

Not by the standard library's `zipfile`, which neither views a mapped file, nor bounds what it inflates or the
number of entries, nor says where the damage is. Source: PKWARE's APPNOTE.TXT, section 4.3.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np

from flaxarch.convert.bounds import INFLATED_SLACK, MAX_INFLATION, let_go, shown
from flaxarch.convert.unpickle import CheckpointError

MAX_ENTRIES = 2**18  # each takes some microseconds

_BLOCK = 2**24  # bytes
STORED, DEFLATED = 0, 8
_IN_ZIP64 = 2**32 - 1  # stands where the number itself is in the extra field


class Entry(NamedTuple):
    """What the directory says of an entry."""

    raw_name: bytes
    method: int
    is_encrypted: bool
    crc: int
    compressed_size: int
    size: int
    start: int  # of the header before its content


class Archive:
    """A zip file whose entries are arrays of bytes: views of the file, unless they are compressed."""

    def __init__(self, data: np.ndarray):
        self.data = data
        self.contents: dict[str, np.ndarray] = {}
        self.num_inflated = 0
        self.entries: dict[str, Entry] = {}
        position, num_entries = self._directory()
        for _ in range(num_entries):
            name, entry, position = self._entry(position)
            if name in self.entries:
                raise CheckpointError(f"the zip archive has two entries {shown(name)}")
            self.entries[name] = entry

    def read(self, name: str) -> np.ndarray:
        """The content of an entry."""
        if name not in self.entries:
            raise CheckpointError(f"the zip archive has no entry {shown(name)}")
        if name not in self.contents:
            try:
                self.contents[name] = self._content(self.entries[name])
            except CheckpointError as error:
                raise CheckpointError(f"entry {shown(name)} of the zip archive: {error}") from error.__cause__
        return self.contents[name]

    def _unpack(self, layout: str, position: int) -> tuple[int, ...]:
        size = struct.calcsize(f"<{layout}")
        if not 0 <= position <= self.data.size - size:
            raise CheckpointError(f"byte {position}: the zip archive is damaged or cut short")
        return struct.unpack(f"<{layout}", self.data[position : position + size].tobytes())

    def _directory(self) -> tuple[int, int]:
        """Where the directory begins, and its number of entries."""
        tail = self.data[-(22 + 2**16) :].tobytes()  # the end record, and a comment of up to 64 KiB
        end = self.data.size - len(tail) + tail.rfind(b"PK\5\6")
        if b"PK\5\6" not in tail:
            raise CheckpointError("the zip archive is damaged or cut short: it has no directory")
        num_entries, _size, start, comment_size = self._unpack("10xHIIH", end)
        self._unpack(f"{comment_size}s", end + 22)
        if end >= 20 and self._unpack("4s", end - 20) == (b"PK\6\7",):  # where zip64's end record is
            (record,) = self._unpack("8xQ", end - 20)
            signature, num_entries, _size, start = self._unpack("4s28xQQQ", record)
            if signature != b"PK\6\6":
                raise CheckpointError(f"byte {record}: zip64's end record of the directory is not here")
        if num_entries > MAX_ENTRIES:
            raise CheckpointError(
                f"byte {end}: a zip archive of {num_entries:,} entries is over {MAX_ENTRIES:,}"
            )
        return start, num_entries

    def _entry(self, position: int) -> tuple[str, Entry, int]:
        """Name and entry in the directory at `position`, and where the next one is."""
        signature, flags, method, crc, *sizes, name_size, extra_size, comment_size, start = self._unpack(
            "4s4xHH4xIIIHHH8xI", position
        )
        if signature != b"PK\1\2":
            raise CheckpointError(f"byte {position}: no entry of the zip archive's directory is here")
        raw_name = self._unpack(f"{name_size}s", position + 46)[0]
        assert isinstance(raw_name, bytes)
        numbers = [*reversed(sizes), start]  # in the order of zip64's field
        fields = self._wide(position + 46 + name_size, extra_size) if _IN_ZIP64 in numbers else []
        for i, number in enumerate(numbers):
            if number == _IN_ZIP64:
                if not fields:
                    raise CheckpointError(f"byte {position}: the entry lacks its zip64 field")
                numbers[i] = fields.pop(0)
        size, compressed_size, start = numbers
        name = raw_name.decode(errors="backslashreplace")
        entry = Entry(raw_name, method, bool(flags & 1), crc, compressed_size, size, start)
        return name, entry, position + 46 + name_size + extra_size + comment_size

    def _wide(self, position: int, size: int) -> list[int]:
        """The numbers in zip64's part of the extra field at `position`."""
        end = position + size
        while position + 4 <= end:
            kind, part_size = self._unpack("HH", position)
            if kind == 1:
                return list(self._unpack(f"{min(part_size, end - position - 4) // 8}Q", position + 4))
            position += 4 + part_size
        return []

    def _content(self, entry: Entry) -> np.ndarray:
        # Before the content stands a header of 30 bytes, the name, and an extra field, by which torch aligns
        # the content to 64 bytes.
        signature, name_size, extra_size = self._unpack("4s22xHH", entry.start)
        if signature != b"PK\3\4":
            raise CheckpointError(f"byte {entry.start}: no entry begins here")
        if self._unpack(f"{name_size}s", entry.start + 30) != (entry.raw_name,):
            raise CheckpointError(f"byte {entry.start}: here begins an entry of another name")
        start = entry.start + 30 + name_size + extra_size
        raw = self.data[start : start + entry.compressed_size]
        if raw.size != entry.compressed_size:
            raise CheckpointError(f"byte {start}: its {entry.compressed_size:,} bytes are not in the file")
        if entry.is_encrypted:
            raise CheckpointError("it is encrypted")
        if entry.method not in (STORED, DEFLATED):  # of the others, one read may inflate to any size
            raise CheckpointError("it is compressed, and not by deflate")
        content = self._inflated(raw, entry.size) if entry.method == DEFLATED else raw
        if content.size != entry.size:
            raise CheckpointError(f"byte {start}: it has {content.size:,} bytes, not {entry.size:,}")
        if entry.crc not in (0, _checksum(content)):  # 0: torch can be told to compute none
            raise CheckpointError(f"byte {start}: the checksum is wrong: its content is damaged")
        return content

    def _inflated(self, raw: np.ndarray, size: int) -> np.ndarray:
        self.num_inflated += size
        if self.num_inflated > INFLATED_SLACK + MAX_INFLATION * self.data.size:
            raise CheckpointError(
                f"the archive inflates to over {MAX_INFLATION} times its size, here to {size:,} bytes more"
            )
        try:  # without a size, it inflates what the entry does not declare
            return np.frombuffer(zlib.decompressobj(-15).decompress(raw.data, max(size, 1)), np.uint8)
        except zlib.error as error:
            raise CheckpointError(f"its compressed content is damaged ({error})") from error


def _checksum(content: np.ndarray) -> int:
    """CRC-32, of a mapped file without keeping it in memory."""
    found = 0
    for start in range(0, content.size, _BLOCK):
        block = content[start : start + _BLOCK]
        found = zlib.crc32(block.data, found)
        let_go(block)
    return found
