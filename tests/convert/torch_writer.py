"""Writes files in the formats of `torch.save`, without torch: stand-ins are pickled under torch's names.

At the end stands what the tests of the readers share.
"""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from flaxarch.convert import CheckpointError, read_checkpoint

STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.int16): "ShortStorage",
    np.dtype(np.int8): "CharStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}


@dataclass(frozen=True)
class Name:
    """Pickled as the global `module.name`."""

    module: str
    name: str

    def __call__(self, *args):  # the pickler wants what is called to be callable
        return Call(self, args)


@dataclass(frozen=True)
class Call:
    """Pickled as a call."""

    function: Name
    args: tuple


@dataclass(eq=False)
class Storage:
    """Pickled as a persistent id."""

    array: np.ndarray
    part: tuple[int, int] | None = None  # first element and number of elements of an old view
    num_elements: int | None = None  # what the pickle says, if it is not the truth


def view(storage: Storage, offset: Any, shape: Any, strides: Any) -> Call:
    hooks = Name("collections", "OrderedDict")()
    return Name("torch._utils", "_rebuild_tensor_v2")(storage, offset, shape, strides, False, hooks)


def tensor(array: np.ndarray) -> Call:
    flat = np.ascontiguousarray(array).reshape(-1)
    strides = tuple(stride // array.itemsize for stride in np.empty(array.shape, array.dtype).strides)
    return view(Storage(flat), 0, array.shape, strides)


@dataclass
class _Keys:
    keys: dict[int, str] = field(default_factory=dict)  # by the address of the storage's memory
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def key(self, array: np.ndarray) -> str:
        key = self.keys.setdefault(array.ctypes.data, str(len(self.keys)))
        self.arrays[key] = array
        return key


_PythonPickler: Any = pickle._Pickler  # unlike the one in C, it lets its methods be replaced


class _Pickler(_PythonPickler):
    def __init__(self, stream: BytesIO, protocol: int, is_legacy: bool):
        super().__init__(stream, protocol)
        self.storages, self.is_legacy = _Keys(), is_legacy

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        kind = Name("torch", STORAGES[obj.array.dtype])
        key = self.storages.key(obj.array)
        num_elements = obj.array.size if obj.num_elements is None else obj.num_elements
        part = None if obj.part is None else (f"part of {key}", *obj.part)
        return ("storage", kind, key, "cpu", num_elements) + ((part,) if self.is_legacy else ())

    def reducer_override(self, obj: Any) -> Any:
        match obj:
            case Name(_, name):
                return name
            case Call(function, args):
                return function, args
        return NotImplemented

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if not isinstance(obj, Name):
            return super().save_global(obj, name)
        if self.proto >= 4:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        return self.memoize(obj)


def _pickled(tree: Any, protocol: int, is_legacy: bool) -> tuple[bytes, dict[str, np.ndarray]]:
    stream = BytesIO()
    pickler = _Pickler(stream, protocol, is_legacy)
    pickler.dump(tree)
    return stream.getvalue(), pickler.storages.arrays


def dumps(tree: Any, protocol: int = 2) -> bytes:
    return _pickled(tree, protocol, is_legacy=False)[0]


def zip_format(
    tree: Any,
    *,
    prefix: str = "archive/",
    protocol: int = 2,
    byteorder: str = "little",
    compression: int = zipfile.ZIP_STORED,
    entries: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    content, arrays = _pickled(tree, protocol, is_legacy=False)
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(f"{prefix}data.pkl", content)
        archive.writestr(f"{prefix}byteorder", byteorder)
        for key, array in arrays.items():
            raw = array.view(f"u{array.itemsize}")
            archive.writestr(f"{prefix}data/{key}", (raw.byteswap() if byteorder == "big" else raw).tobytes())
        archive.writestr(f"{prefix}version", b"3\n")
        for name, entry in entries.items():
            archive.writestr(prefix + name, entry)
    return stream.getvalue()


def legacy_format(
    tree: Any,
    *,
    protocol: int = 2,
    magic: int = 0x1950A86A20F9469CFC6C,
    version: Any = 1001,
    keys: Any = None,
) -> bytes:
    content, arrays = _pickled(tree, protocol, is_legacy=True)
    machine = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    head = b"".join(pickle.dumps(value, protocol) for value in (magic, version, machine))
    data = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values())
    return head + content + pickle.dumps(list(arrays) if keys is None else keys, protocol) + data


WEIGHTS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "conv.bias": np.array([-1.5, 2.5], np.float32),
    "bn.num_batches_tracked": np.array(7),
}


def tensors(arrays: dict[str, np.ndarray] = WEIGHTS, prefix: str = "") -> dict[str, Call]:
    return {prefix + name: tensor(array) for name, array in arrays.items()}


def refusal(path: Any) -> str:
    """The one sentence in which reading a file ends."""
    with pytest.raises(CheckpointError) as info:
        read_checkpoint(path)
    message = str(info.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message


def assert_equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].shape == array.shape
        assert actual[name].tobytes() == array.tobytes()
