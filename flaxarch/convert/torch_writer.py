"""Writes a state dict as `torch.save` does, in the zip format, without torch.

The entry `archive/data.pkl` is the pickled dictionary, in which each tensor is a call of
`torch._utils._rebuild_tensor_v2` with a storage; `archive/data/<key>` are the bytes of the storages.
Source: `torch/serialization.py`.
"""

import os
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

_STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
}
_ALIGNMENT = 64  # bytes, of a storage in the file, so that torch can map it into memory
_LOCAL_HEADER = 30  # bytes, before the entry's name
_NO_TIME = (1980, 1, 1, 0, 0, 0)  # the same tensors make the same bytes


def write_torch(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a file from which `torch.load(path, weights_only=True)` gives these tensors, by name, in order.

    The file appears whole or not at all. Raises ValueError for a dtype that torch's files do not hold.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype not in _STORAGES:
            raise ValueError(f"{name} is of dtype {array.dtype}, which is not written to torch's files")
    part = Path(path).with_name(Path(path).name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            _write(archive, "data.pkl", b"".join(_pickled(arrays)))
            _write(archive, "byteorder", b"little")
            for key, array in enumerate(arrays.values()):
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                _write(archive, f"data/{key}", little.reshape(-1).view(np.uint8).data)
            _write(archive, "version", b"3\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write(archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(f"archive/{name}", _NO_TIME)
    assert archive.fp is not None
    start = archive.fp.tell() + _LOCAL_HEADER + len(entry.filename) + 4
    num_fill = -start % _ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", num_fill) + b"Z" * num_fill  # the field that torch fills with
    entry.file_size = len(content)  # says whether the entry needs zip64
    with archive.open(entry, "w") as stream:
        stream.write(content)


def _pickled(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """The state dict in pickle's protocol 2, opcode by opcode."""
    yield pickle.PROTO + b"\x02"
    yield _EMPTY_DICT
    yield pickle.MARK
    for key, (name, array) in enumerate(arrays.items()):
        yield _text(name)
        yield from _tensor(str(key), array)
    yield pickle.SETITEMS
    yield pickle.STOP


def _tensor(key: str, array: np.ndarray) -> Iterator[bytes]:
    yield _global("torch._utils", "_rebuild_tensor_v2")
    yield pickle.MARK
    yield pickle.MARK  # the storage, which is not in the pickle
    yield _text("storage")
    yield _global("torch", _STORAGES[array.dtype])
    yield _text(key) + _text("cpu") + _integer(array.size)
    yield pickle.TUPLE + pickle.BINPERSID
    yield _integer(0)  # its first element
    yield _integers(array.shape)
    yield _integers(tuple(stride // array.itemsize for stride in array.strides))
    yield pickle.NEWFALSE  # no gradient is required
    yield _EMPTY_DICT  # of hooks
    yield pickle.TUPLE + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    content = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(content)) + content


def _integer(value: int) -> bytes:
    if value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def _integers(values: tuple[int, ...]) -> bytes:
    return pickle.MARK + b"".join(map(_integer, values)) + pickle.TUPLE


_EMPTY_DICT = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
