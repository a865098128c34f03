"""Reads HDF5 files: groups, attributes that hold text, and datasets of numbers.

Not by HDF5's own library: made for files that are trusted, it hangs or crashes on one in two hundred damaged
ones (`docs/fuzz.md`), and Python can catch neither. Here every read is within the file, and their number is
bounded. Read is what Keras and h5py write unless told otherwise, with gzip: nothing outside of the file
(links, external or virtual data), and not the indexes that HDF5 1.10 brought for large groups and for chunks.

Source: "HDF5 File Format Specification Version 3.0"; the sections named below are its.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from flaxarch.convert.bounds import Cursor, shown
from flaxarch.convert.hdf5_types import Datatype, num_elements, read_datatype, read_shape
from flaxarch.convert.unpickle import CheckpointError

SIGNATURE = b"\x89HDF\r\n\x1a\n"

MAX_STEPS = 2**20  # messages, links, chunks: 10,000 layers take a tenth; one takes some microseconds
STEP_BYTES = 2**8  # of text are another step

UNDEFINED = 2**64 - 1  # an address

# Types of messages (IV.A.2)
DATASPACE, DATATYPE, EXTERNAL, LAYOUT, FILTERS = 1, 3, 7, 8, 11
_LINK_INFO, _LINK, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE, _ATTRIBUTE_INFO = 2, 6, 12, 16, 17, 21


class Message(NamedTuple):
    """A part of what an object's header says."""

    kind: int
    start: int
    size: int


class File:
    """An HDF5 file in memory, or mapped into it."""

    def __init__(self, data: np.ndarray):
        self.data = data
        self.num_steps = 0
        self.heaps: dict[int, dict[int, tuple[int, int]]] = {}
        self.objects: dict[int, Node] = {}
        self.root = Node(self, "", self._root())

    def cursor(self, position: int, size: int | None = None) -> Cursor:
        """A cursor over so many bytes, or up to the end of the file."""
        return Cursor(self.data, position, max(self.data.size - position, 0) if size is None else size)

    def step(self, num_bytes: int = 0) -> None:
        """Bounds the work: structures may refer to each other without end."""
        self.num_steps += 1 + num_bytes // STEP_BYTES
        if self.num_steps > MAX_STEPS:
            raise CheckpointError(
                f"the file has over {MAX_STEPS:,} parts, or parts that lead back to each other"
            )

    def _root(self) -> int:
        """Address of the root group's header (II.A, the superblock)."""
        cursor = self.cursor(0)
        cursor.expect(SIGNATURE, "the signature of HDF5")
        version = cursor.number(1)
        if version > 3:
            raise CheckpointError(f"byte 8: superblock version {version}, of 0 to 3 that are read here")
        if version < 2:
            cursor.take(4)  # versions, and a reserved byte
        sizes = cursor.take(2)
        if sizes != b"\x08\x08":
            raise CheckpointError(f"byte {cursor.position - 2}: addresses and sizes that do not take 8 bytes")
        cursor.take({0: 9, 1: 13}.get(version, 1))  # sizes of nodes, flags
        base = cursor.number(8)
        cursor.take(8)  # of free space, or of an extension
        end = cursor.number(8)
        if version < 2:
            cursor.take(16)  # of the driver; the root's name
        if base != 0:
            raise CheckpointError(
                f"byte {cursor.position}: addresses that count from byte {base:,} are not read"
            )
        if end > self.data.size:
            raise CheckpointError(f"the file is cut short: it has {self.data.size:,} bytes of {end:,}")
        return cursor.number(8)

    def heap_object(self, address: int, index: int) -> bytes:
        """An object of a global heap (III.E)."""
        if address not in self.heaps:
            cursor = self.cursor(address)
            cursor.expect(b"GCOL\1\0\0\0", "a global heap")
            cursor = Cursor(self.data, cursor.position + 8, cursor.number(8) - 16)
            objects = self.heaps[address] = {}
            while cursor.left >= 16:
                self.step()
                key, _, size = cursor.number(2), cursor.take(6), cursor.number(8)
                if key == 0:  # free space up to the end
                    break
                objects[key] = (cursor.position, size)
                cursor.take(min(-(-size // 8) * 8, cursor.left))
        if index not in self.heaps[address]:
            raise CheckpointError(f"byte {address}: the global heap has no object {index}")
        position, size = self.heaps[address][index]
        self.step(size)
        return self.cursor(position, size).take(size)

    def leaves(
        self, address: int, kind: int, key_size: int, level: int | None = None
    ) -> Iterator[tuple[bytes, int]]:
        """(key, child) of all leaves below a node of a version 1 B-tree (III.A.1)."""
        self.step()
        cursor = self.cursor(address)
        cursor.expect(b"TREE" + bytes([kind]), "a node of a B-tree")
        own_level, num_children = cursor.number(1), cursor.number(2)
        if level not in (None, own_level):
            raise CheckpointError(
                f"byte {address}: this node of a B-tree is on another level than its parent says"
            )
        cursor.take(16)  # its siblings
        for _ in range(num_children):
            self.step()
            key, child = cursor.take(key_size), cursor.number(8)
            if own_level:
                yield from self.leaves(child, kind, key_size, own_level - 1)
            else:
                yield key, child


@dataclass
class Node:
    """A group or a dataset: what the header at its address says."""

    file: File
    name: str  # its path
    address: int
    messages: list[Message] = field(init=False)

    def __post_init__(self):
        try:
            self.messages = list(self._messages())
        except CheckpointError as error:
            raise CheckpointError(f"{shown(self.name or '/')}: {error}") from None

    def _messages(self) -> Iterator[Message]:
        """What the object's header and its continuations hold (IV.A.1)."""
        cursor = self.file.cursor(self.address)
        version = 2 if self.file.data[self.address : self.address + 4].tobytes() == b"OHDR" else 1
        if version == 1:
            cursor.expect(b"\1", "an object's header")
            cursor.take(7)
            size = cursor.number(4)
            cursor.take(4)
            has_order = False
        else:
            cursor.expect(b"OHDR\2", "an object's header")
            flags = cursor.number(1)
            cursor.take(16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1))  # times; numbers of attributes
            size = cursor.number(1 << (flags & 3))
            has_order = bool(flags & 4)
        head_size = 8 if version == 1 else 6 if has_order else 4
        blocks = [(cursor.position, size)]
        for start, size in blocks:  # which grows
            cursor = self.file.cursor(start, size)
            while cursor.left >= head_size:
                self.file.step()
                kind, size = (cursor.number(2 if version == 1 else 1), cursor.number(2))
                flags = cursor.number(1)
                cursor.take(head_size - (5 if version == 1 else 4))
                message = Message(kind, cursor.position, size)
                cursor.take(size)
                if kind != 0 and flags & 2:
                    raise CheckpointError(
                        f"byte {message.start}: a message that several objects share is not read"
                    )
                if kind == _CONTINUATION:
                    inner = self.file.cursor(message.start, 16)
                    start, size = inner.number(8), inner.number(8)
                    if version == 2:  # between a signature and a checksum
                        self.file.cursor(start).expect(b"OCHK", "the rest of an object's header")
                        start, size = start + 4, max(size - 8, 0)
                    blocks.append((start, size))
                yield message

    def find(self, kind: int) -> Cursor | None:
        """The content of the first message of a type."""
        for message in self.messages:
            if message.kind == kind:
                return self.file.cursor(message.start, message.size)
        return None

    @property
    def is_dataset(self) -> bool:
        """Whether this is a dataset, and not a group."""
        return self.find(LAYOUT) is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of a dataset's axes; () for what is no dataset."""
        space = self.find(DATASPACE)
        return (read_shape(space) if space else None) or ()

    @cached_property
    def links(self) -> dict[str, int | None]:
        """Address of each member of the group; None for a link of another kind than hard."""
        members: dict[str, int | None] = {}
        for name, address in self._links():
            text = name.decode(errors="backslashreplace")
            if text in members:
                raise CheckpointError(f"{shown(self.name or '/')} has two members {shown(text)}")
            members[text] = address
        return members

    def child(self, name: str) -> "Node":
        """A member of the group, inside this file."""
        self.file.step()
        path = f"{self.name}/{name}"
        address = self.links.get(name)
        if address is None:
            raise CheckpointError(f"{path[:200]!r} is missing, or a link, which is not followed")
        if address not in self.file.objects:
            self.file.objects[address] = Node(self.file, path, address)
        return self.file.objects[address]

    def _links(self) -> Iterator[tuple[bytes, int | None]]:
        table = self.find(_SYMBOL_TABLE)
        if table is not None:
            yield from self._symbols(table.number(8), table.number(8))
        info = self.find(_LINK_INFO)
        if info is not None:
            has_order = info.number(2) >> 8 & 1
            info.take(8 * has_order)
            if info.number(8) != UNDEFINED:
                raise CheckpointError(
                    f"{shown(self.name or '/')} is a large group of HDF5 1.8's kind, which is not read"
                )
        for message in self.messages:
            if message.kind == _LINK:
                yield self._link(self.file.cursor(message.start, message.size))

    def _symbols(self, tree: int, heap: int) -> Iterator[tuple[bytes, int | None]]:
        """Links in a symbol table (III.A.1, III.C, III.D): a B-tree of nodes, names in a local heap."""
        cursor = self.file.cursor(heap)
        cursor.expect(b"HEAP\0\0\0\0", "a local heap")
        size = cursor.number(8)
        cursor.take(8)
        names = self.file.cursor(cursor.number(8), size)
        for _, address in self.file.leaves(tree, kind=0, key_size=8):
            node = self.file.cursor(address)
            node.expect(b"SNOD\1\0", "a node of a symbol table")
            for _ in range(node.number(2)):
                start, header, is_soft = node.number(8), node.number(8), node.number(4) == 2
                node.take(20)
                yield self._text_at(names.position + start, names.end), None if is_soft else header

    def _text_at(self, start: int, end: int) -> bytes:
        """What stands from `start` up to a zero."""
        position, size = start, 64
        while position < end:
            part = self.file.data[position : min(position + size, end)].tobytes()
            self.file.step(len(part))
            zero = part.find(b"\0")
            if zero >= 0:
                return self.file.data[start : position + zero].tobytes()
            position, size = position + size, 2 * size
        raise CheckpointError(f"byte {start}: a name that is not in its heap")

    def _link(self, cursor: Cursor) -> tuple[bytes, int | None]:
        """A link in the header (IV.A.2.g)."""
        cursor.expect(b"\1", "a link")
        flags = cursor.number(1)
        kind = cursor.number(1) if flags & 8 else 0
        cursor.take(8 * (flags >> 2 & 1) + (flags >> 4 & 1))  # order of creation, encoding
        name = cursor.take(cursor.number(1 << (flags & 3)))
        return name, cursor.number(8) if kind == 0 else None

    def texts(self, attribute: str) -> list[str] | None:
        """The text or the list of texts in an attribute; None where there is no such attribute."""
        if attribute not in self._attributes:
            return None
        try:
            return list(self._texts(*self._attributes[attribute]))
        except CheckpointError as error:
            raise CheckpointError(f"attribute {attribute!r} of {shown(self.name or '/')}: {error}") from None

    @cached_property
    def _attributes(self) -> dict[str, tuple[Datatype, int, Message]]:
        """Type, number of elements and content of each attribute (IV.A.2.m)."""
        info = self.find(_ATTRIBUTE_INFO)
        if info is not None:
            has_order = info.number(2) >> 8 & 1
            info.take(2 * has_order)
            if info.number(8) != UNDEFINED:
                raise CheckpointError(
                    f"{shown(self.name or '/')} has attributes in HDF5 1.8's index, which is not read"
                )
        attributes = {}
        for message in self.messages:
            if message.kind == _ATTRIBUTE:
                cursor = self.file.cursor(message.start, message.size)
                version, is_shared = cursor.number(1), cursor.number(1)
                if not 1 <= version <= 3 or (version > 1 and is_shared):
                    raise CheckpointError(
                        f"byte {message.start}: an attribute of version {version} is not read"
                    )
                sizes = [cursor.number(2) for _ in range(3)]
                cursor.take(version == 3)  # encoding of the name
                name, dtype, space = (self._part(cursor, size, padded=version == 1) for size in sizes)
                text = name.take(name.left).rstrip(b"\0").decode(errors="backslashreplace")
                content = Message(_ATTRIBUTE, cursor.position, cursor.left)
                attributes[text] = (dtype, space, content)
        return {
            name: (read_datatype(dtype), num_elements(read_shape(space)), content)
            for name, (dtype, space, content) in attributes.items()
        }

    def _part(self, cursor: Cursor, size: int, *, padded: bool) -> Cursor:
        part = self.file.cursor(cursor.position, size)
        cursor.take(-(-size // 8) * 8 if padded else size)
        return part

    def _texts(self, dtype: Datatype, count: int, content: Message) -> Iterator[str]:
        cursor = self.file.cursor(content.start, content.size)
        if count and dtype.kind not in ("text", "texts"):
            raise CheckpointError(f"it holds {dtype.kind}, not text")
        for _ in range(count):
            self.file.step(dtype.size)
            if dtype.kind == "text":
                raw = cursor.take(dtype.size).partition(b"\0")[0].rstrip(dtype.padding)
            else:
                size, address, index = cursor.number(4), cursor.number(8), cursor.number(4)
                raw = self.file.heap_object(address, index)[:size] if size else b""
            yield raw.decode(errors="backslashreplace")
