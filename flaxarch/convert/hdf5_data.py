"""Reads the numbers in an HDF5 file's datasets: views of the file, unless they are in chunks."""

import itertools
import math
import zlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flaxarch.convert.bounds import without_elements
from flaxarch.convert.hdf5_tree import DATASPACE, DATATYPE, EXTERNAL, FILTERS, LAYOUT, UNDEFINED, Node
from flaxarch.convert.hdf5_types import num_elements, read_datatype, read_shape
from flaxarch.convert.unpickle import CheckpointError

_COMPACT, _CONTIGUOUS, _CHUNKED = range(3)
_DEFLATE, _SHUFFLE = 1, 2
_STEPS_OF_CHUNK = 8


class _Chunk(NamedTuple):
    """A block of a dataset's elements, which it holds whole also at the dataset's edges."""

    corner: tuple[int, ...]
    start: int
    size: int
    skipped: int  # bits of the filters that were not applied


class Dataset:
    """Shape and dtype of a dataset of numbers, and where its elements are."""

    def __init__(self, node: Node):
        self.file = node.file
        space, datatype, layout = node.find(DATASPACE), node.find(DATATYPE), node.find(LAYOUT)
        if space is None or datatype is None or layout is None or node.find(EXTERNAL) is not None:
            raise CheckpointError("it is no tensor of this file")
        shape = read_shape(space)
        if shape is None:
            raise CheckpointError("it is no tensor of this file, as nothing is in it")
        self.shape, self.dtype = shape, self._dtype(node, read_datatype(datatype))
        self.nbytes = num_elements(shape) * self.dtype.itemsize

        self.chunk: tuple[int, ...] = ()
        version, kind = layout.number(1), layout.number(1)
        if kind > _CHUNKED:
            raise CheckpointError("it is no tensor of this file, or is put together from others")
        if version not in (3, 4, 5) or (kind == _CHUNKED and version != 3):
            raise CheckpointError(f"it is stored in layout {kind} of version {version}, which is not read")
        self.kind = kind
        if kind == _COMPACT:
            self.stored = layout.number(2)
            self.start = layout.position
            layout.take(self.stored)
        elif kind == _CONTIGUOUS:
            self.start, self.stored = layout.number(8), layout.number(8)
        else:
            num_axes = layout.number(1) - 1
            self.start = layout.number(8)
            self.chunk = tuple(layout.number(4) for _ in range(num_axes))
            if num_axes != len(shape) or 0 in self.chunk or layout.number(4) != self.dtype.itemsize:
                raise CheckpointError("it is in chunks of another shape or dtype")
            counts = [-(-size // of_chunk) for size, of_chunk in zip(shape, self.chunk, strict=True)]
            self.num_chunks = math.prod(counts)
            self.stored = self.num_chunks * math.prod(self.chunk) * self.dtype.itemsize
        self.filters = self._filters(node)

    def _dtype(self, node: Node, datatype: Any) -> np.dtype[Any]:
        if datatype.kind == "opaque elements" and datatype.size == 2 and node.texts("dtype") == ["bfloat16"]:
            return np.dtype(ml_dtypes.bfloat16)  # as Keras 3 writes them
        if datatype.dtype is None:
            raise CheckpointError(f"it has the unsupported dtype of {datatype.kind} of {datatype.size} bytes")
        return datatype.dtype

    def _filters(self, node: Node) -> list[int]:
        """What was applied to each chunk, in this order (IV.A.2.l)."""
        cursor = node.find(FILTERS)
        if cursor is None:
            return []
        version, count = cursor.number(1), cursor.number(1)
        cursor.take(6 if version == 1 else 0)
        filters = []
        for _ in range(count):
            kind = cursor.number(2)
            name_size = cursor.number(2) if version == 1 or kind >= 256 else 0
            num_values = cursor.number(4) >> 16  # behind the flags
            cursor.take(name_size + -name_size % (8 if version == 1 else 1))
            cursor.take(4 * (num_values + (num_values % 2 if version == 1 else 0)))
            if kind not in (_DEFLATE, _SHUFFLE):
                raise CheckpointError(f"it is compressed by HDF5's filter {kind}, of which only gzip is read")
            filters.append(kind)
        return filters

    def array(self) -> np.ndarray:
        """The elements; a view of the file where they are in one piece, and in this machine's byte order."""
        array = self._as_stored()
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))

    def _as_stored(self) -> np.ndarray:
        if self.nbytes == 0:
            return without_elements(self.shape, self.dtype)
        if self.start == UNDEFINED:
            raise CheckpointError("it was never written")
        if self.kind == _CHUNKED:
            return self._from_chunks()
        if self.stored != self.nbytes or self.filters:
            raise CheckpointError(f"it has {self.stored:,} bytes, and {self.nbytes:,} by its shape and dtype")
        self.file.cursor(self.start, self.nbytes)  # within the file
        array = np.ndarray(self.shape, self.dtype, self.file.data, self.start)
        array.flags.writeable = False
        return array

    def _from_chunks(self) -> np.ndarray:
        chunks = {}
        key_size = 8 + 8 * (len(self.shape) + 1)
        for key, start in self.file.leaves(self.start, kind=1, key_size=key_size):
            corner = tuple(int.from_bytes(key[i : i + 8], "little") for i in range(8, key_size - 8, 8))
            size, skipped = int.from_bytes(key[:4], "little"), int.from_bytes(key[4:8], "little")
            chunks[corner] = _Chunk(corner, start, size, skipped)
        corners = itertools.product(
            *(range(0, size, of_chunk) for size, of_chunk in zip(self.shape, self.chunk, strict=True))
        )
        if len(chunks) != self.num_chunks or any(corner not in chunks for corner in corners):
            raise CheckpointError("it has other chunks than its shape asks for")
        array = np.empty(self.shape, self.dtype)
        for chunk in chunks.values():
            for _ in range(_STEPS_OF_CHUNK):
                self.file.step()
            block = tuple(map(slice, chunk.corner, map(sum, zip(chunk.corner, self.chunk, strict=True))))
            target = array[block]
            target[...] = self._chunk(chunk)[tuple(map(slice, target.shape))]
        return array

    def _chunk(self, chunk: _Chunk) -> np.ndarray:
        content = self.file.cursor(chunk.start, chunk.size).take(chunk.size)
        num_bytes = math.prod(self.chunk) * self.dtype.itemsize
        for i, kind in reversed(list(enumerate(self.filters))):
            if chunk.skipped >> i & 1:
                continue
            if kind == _SHUFFLE:  # the first bytes of all elements, then the second, ...
                planes = np.frombuffer(content, np.uint8)
                if planes.size % self.dtype.itemsize:
                    raise CheckpointError(f"it has a damaged chunk at byte {chunk.start}")
                content = planes.reshape(self.dtype.itemsize, -1).T.tobytes()
                continue
            try:
                content = zlib.decompressobj().decompress(content, num_bytes)
            except zlib.error as error:
                raise CheckpointError(f"it has a damaged chunk at byte {chunk.start} ({error})") from error
        if len(content) != num_bytes:
            raise CheckpointError(f"it has a chunk of another size at byte {chunk.start}")
        return np.ndarray(self.chunk, self.dtype, content)
