"""Reads what `torch.save` wrote, in both of its formats, as a tree of plain data and NumPy arrays.

Zip format, of torch 1.6 and later: the entry `<any name>/data.pkl` is the pickled object, the entries
`<any name>/data/<key>` are the bytes of its storages, and `<any name>/byteorder` is their order, "little" or
"big", and little where it is missing.

Legacy format: five pickles (a magic number, the format's version, facts about the machine, the object, the
list of storage keys), then for each key the storage's number of elements as int64 and its bytes, both
little-endian.

In the pickled object, a tensor is a call of `torch._utils._rebuild_tensor_v2` with a storage and the places
of its elements there; a storage is a persistent id. Source: `torch/serialization.py`, `torch/_utils.py`.

The arrays are read-only; those from a zip file are views of the mapped file, which must not change while they
live.
"""

import math
import os
import re
import sys
from functools import cache
from io import BufferedReader, BytesIO
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flaxarch.convert.archive import Archive
from flaxarch.convert.bounds import mapped, shown
from flaxarch.convert.constructors import NUMPY_CONSTRUCTORS, PLAIN_CONSTRUCTORS
from flaxarch.convert.unpickle import CheckpointError, Constructors, Global, length, of_type, unpickle

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

# Complex and quantized tensors are left out: no network here has any.
_STORAGE_DTYPES = {
    "torch.DoubleStorage": np.float64,
    "torch.FloatStorage": np.float32,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
    "torch.storage.UntypedStorage": np.uint8,
}
_DTYPES = {
    **{f"torch.{name}": np.dtype(name) for name in ("float64", "float32", "float16", "bool", "uint8")},
    **{f"torch.{name}": np.dtype(name) for name in ("int64", "int32", "int16", "int8")},
    # These have no storage class of their own: `_rebuild_tensor_v3` names them beside an untyped storage.
    **{f"torch.{name}": np.dtype(name) for name in ("uint64", "uint32", "uint16")},
    "torch.bfloat16": np.dtype(ml_dtypes.bfloat16),
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "torch.float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}

# `expand` gives a few stored elements any shape: with more than this, and than are stored, a tensor is a trap
# for whoever copies it.
MAX_EXPANDED = 2**24


class Storage(NamedTuple):
    """The memory that tensors share, as bytes, and the type of its elements."""

    raw: np.ndarray  # uint8, one axis
    dtype: np.dtype[Any]


def read_torch(path: str | os.PathLike[str]) -> Any:
    """Reads a `.pth`, `.pt`, `.th` or `.pth.tar` file, whose first bytes say which format it has."""
    with open(path, "rb") as file:
        head = file.read(512)
        file.seek(0)
        if head.startswith(b"\x80"):  # opcode PROTO
            return _read_legacy(file)
    if head.startswith(b"PK\3\4"):
        return _read_zip(Archive(mapped(path)))
    if head[257:262] == b"ustar":
        raise CheckpointError("a tar archive, the oldest of torch's formats, is not supported")
    raise CheckpointError(f"no format that is read here starts with the bytes {head[:8]!r}")


def _view(storage: Any, dtype: np.dtype[Any], offset: Any, shape: Any, strides: Any) -> np.ndarray:
    """The elements of a storage from `offset` on, `strides` apart, both counted in elements."""
    raw = of_type(Storage, storage).raw
    axes = list(zip(of_type(tuple, shape), of_type(tuple, strides), strict=True))
    if len(axes) > 64:  # NumPy's own limit
        raise CheckpointError(f"a tensor with {len(axes)} axes")
    num_stored = raw.size // dtype.itemsize
    size = math.prod(map(length, shape))
    last = length(offset) + sum((n - 1) * length(stride) for n, stride in axes)
    if size == 0:
        array = np.zeros(shape, dtype)
    elif last >= num_stored:
        raise CheckpointError(f"a tensor that reaches beyond its storage of {num_stored} elements")
    elif size > max(num_stored, MAX_EXPANDED):
        raise CheckpointError(f"a tensor that expands {num_stored} elements to far more than it stores")
    else:
        # The stride of an axis of size 1 has no meaning, and may be any number.
        steps = [(stride if n > 1 else 1) * dtype.itemsize for n, stride in axes]
        array = np.ndarray(shape, dtype, raw, offset * dtype.itemsize, steps)
    array.flags.writeable = False
    return array


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> np.ndarray:
    return _view(storage, storage.dtype, offset, shape, strides)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> np.ndarray:
    if metadata:
        raise CheckpointError("a tensor that is stored conjugated or negated")
    return _view(storage, storage.dtype, offset, shape, strides)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, dtype: Any
) -> np.ndarray:
    return _view(storage, _DTYPES[of_type(Global, dtype).name], offset, shape, strides)


def _rebuild_parameter(data: Any, requires_grad: Any, hooks: Any) -> np.ndarray:
    return of_type(np.ndarray, data)


def _device(kind: Any, index: Any = None) -> str:
    return of_type(str, kind) if index is None else f"{of_type(str, kind)}:{length(index)}"


CONSTRUCTORS: Constructors = {
    **PLAIN_CONSTRUCTORS,
    **NUMPY_CONSTRUCTORS,
    **dict.fromkeys(_STORAGE_DTYPES),
    **dict.fromkeys(_DTYPES),
    "torch._utils._rebuild_tensor": _rebuild_tensor,  # old torch
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": lambda sizes=(): of_type(tuple, sizes),
    "torch.device": _device,
}


def _storage_id(persistent_id: Any, num_parts: int) -> tuple[np.dtype[Any], str, int]:
    """The dtype, key and number of bytes in ("storage", type, key, device, number of elements, ...)."""
    parts = of_type(tuple, persistent_id)
    if len(parts) != num_parts or parts[0] != "storage":
        raise CheckpointError("the pickle refers to something that is no storage")
    dtype = np.dtype(_STORAGE_DTYPES[of_type(Global, parts[1]).name])
    return dtype, of_type(str, parts[2]), length(parts[4]) * dtype.itemsize


def _read_zip(archive: Archive) -> Any:
    pickles = [name for name in archive.entries if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if len(pickles) != 1:
        first = ", ".join(map(shown, list(archive.entries)[:5]))
        raise CheckpointError(
            f"torch's zip archives have one entry data.pkl, and this one begins with {first}"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in archive.entries:
        raise CheckpointError("a TorchScript archive holds code: read and save its state_dict() with torch")
    byteorder = "little"
    if f"{prefix}byteorder" in archive.entries:
        byteorder = archive.read(f"{prefix}byteorder")[:10].tobytes().decode("latin-1")
    if byteorder not in ("little", "big"):
        raise CheckpointError(f"the byte order is {byteorder!r}, neither little nor big")

    @cache  # a storage in the other byte order is a copy
    def read_storage(key: str, itemsize: int) -> np.ndarray:
        raw = archive.read(f"{prefix}data/{key}")
        if byteorder == sys.byteorder or raw.size % itemsize:
            return raw
        return raw.view(f"u{itemsize}").byteswap().view(np.uint8)

    def persistent_load(persistent_id: Any) -> Storage:
        dtype, key, num_bytes = _storage_id(persistent_id, 5)
        raw = read_storage(key, dtype.itemsize)
        if raw.size != num_bytes:
            raise CheckpointError(f"storage {shown(key)} has {raw.size} bytes, not {num_bytes}")
        return Storage(raw, dtype)

    stream = BytesIO(archive.read(pickles[0]).tobytes())
    return unpickle(stream, CONSTRUCTORS, persistent_load, "data.pkl")


def _read_legacy(file: BufferedReader) -> Any:
    magic_number = unpickle(file, CONSTRUCTORS)
    if type(magic_number) is not int or magic_number != MAGIC_NUMBER:
        raise CheckpointError("this is a pickle, but not one that torch.save wrote")
    version = unpickle(file, {})
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise CheckpointError(f"the version of the legacy format is not {PROTOCOL_VERSION}")
    unpickle(file, {})  # the machine's byte order and sizes of integers, on which the data do not depend

    storages: dict[str, Storage] = {}
    num_left = os.fstat(file.fileno()).st_size

    def persistent_load(persistent_id: Any) -> Storage:
        nonlocal num_left
        dtype, key, num_bytes = _storage_id(persistent_id, 6)
        if key not in storages:
            num_left -= num_bytes
            if num_left < 0:
                raise CheckpointError(f"storage {shown(key)} does not fit into the file")
            storages[key] = Storage(np.empty(num_bytes, np.uint8), dtype)  # its bytes come after the pickle
        raw, view = storages[key].raw, persistent_id[5]
        if raw.size != num_bytes:
            raise CheckpointError(f"storage {shown(key)} has now {raw.size} bytes, now {num_bytes}")
        if view is not None:  # old torch: (key, first element, number of elements) of a part
            _, first, num_elements = of_type(tuple, view)
            end = (length(first) + length(num_elements)) * dtype.itemsize
            if end > num_bytes:
                raise CheckpointError(f"a part of storage {shown(key)} reaches beyond it")
            raw = raw[first * dtype.itemsize : end]
        return Storage(raw, dtype)

    tree = unpickle(file, CONSTRUCTORS, persistent_load)
    keys = unpickle(file, {})
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CheckpointError("the list of storages is no list of keys")
    if sorted(keys) != sorted(storages):
        raise CheckpointError("the list of storages does not name those of the tensors, each once")
    for key in keys:
        raw, dtype = storages[key]
        num_elements = int.from_bytes(file.read(8), "little")
        if num_elements * dtype.itemsize != raw.size:
            raise CheckpointError(
                f"storage {shown(key)} has {num_elements} elements, and another number before"
            )
        if file.readinto(raw.data) != raw.size:
            raise CheckpointError(f"the file ends within storage {shown(key)}")
        if sys.byteorder == "big":
            raw.view(f"u{dtype.itemsize}").byteswap(inplace=True)
    return tree
