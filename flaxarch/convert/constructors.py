"""What stands for the globals that a pickle of plain data names: containers, NumPy's arrays and numbers.

Each table gives, by module and name, a function of ours for `unpickle`. None of them makes anything but data,
or anything larger than its arguments.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from flaxarch.convert.unpickle import (
    CheckpointError,
    Constructors,
    Global,
    Unbuilt,
    length,
    of_type,
    plain_dict,
    plain_set,
)


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError("an encoding other than latin1")
    return text.encode("latin-1")


# How Python 3 writes bytes in protocols 0 to 2, when there are some and when there are none.
_BYTES: dict[str, Callable[..., Any] | None] = {
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",
}


def _bytearray(data: str | bytes = b"", encoding: str = "latin-1") -> bytearray:
    return bytearray(_encode(data, encoding) if isinstance(data, str) else of_type(bytes, data))


class _Namespace(Unbuilt):
    """`argparse.Namespace`, as training scripts keep their arguments: becomes the dict of its attributes."""

    def build(self, state: Any) -> dict[Any, Any]:
        return of_type(dict, state)


_BUILTINS: dict[str, Callable[..., Any] | None] = {
    "set": plain_set,
    "frozenset": lambda values=(): frozenset(plain_set(values)),
    "bytearray": _bytearray,
    "complex": complex,
    **dict.fromkeys(("int", "float", "str", "list", "dict")),  # factories of a defaultdict: never called
}
PLAIN_CONSTRUCTORS: Constructors = {
    **{
        f"{module}.{name}": make for module in ("builtins", "__builtin__") for name, make in _BUILTINS.items()
    },
    "collections.OrderedDict": plain_dict,
    "collections.Counter": plain_dict,
    "collections.defaultdict": lambda factory=None: {},
    "argparse.Namespace": _Namespace,
    **_BYTES,
}


class _DType(Unbuilt):
    """`numpy.dtype(code, align, copy)`; the state is (version, byte order, ...), the rest not for numbers."""

    def __init__(self, code: str, align: Any, copy: Any):
        # Numbers only: elements of other dtypes can be pointers ("O") or records of any shape ("V").
        if not re.fullmatch(r"[biufc](1|2|4|8|16)", code):
            raise CheckpointError("a dtype that is no number")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> np.dtype[Any]:
        byte_order = of_type(tuple, state)[1]
        if byte_order not in ("<", ">", "|", "="):
            raise CheckpointError("a NumPy byte order other than <, >, | and =")
        return self.dtype.newbyteorder(byte_order)


class _Array(Unbuilt):
    """`_reconstruct(numpy.ndarray, (0,), b"b")`; the array is in the state."""

    def __init__(self, kind: Any, shape: Any, code: Any):
        if of_type(Global, kind).name != "numpy.ndarray":
            raise CheckpointError("an array of another class than numpy.ndarray")

    def build(self, state: Any) -> np.ndarray:
        _version, shape, dtype, is_fortran, data = of_type(tuple, state)
        return _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data: str | bytes | bytearray, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or order not in ("C", "F"):
        raise CheckpointError("an array that does not hold numbers in C or Fortran order")
    if len(of_type(tuple, shape)) > 64:  # NumPy's own limit
        raise CheckpointError(f"an array with {len(shape)} axes")
    content = data.encode("latin-1") if isinstance(data, str) else data  # text: written by Python 2
    if math.prod(map(length, shape)) * dtype.itemsize != len(content):
        raise CheckpointError("an array whose shape and dtype do not agree with its number of bytes")
    array = np.ndarray(shape, dtype, buffer=content, order=order)
    array.flags.writeable = False  # as arrays over `bytes` are in any case
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C")[()]


NUMPY_CONSTRUCTORS: Constructors = {
    "numpy.ndarray": None,
    "numpy.dtype": _DType,
    **_BYTES,
    **{
        f"numpy.{core}.{name}": make
        for core in ("core", "_core")  # until and since NumPy 2
        for name, make in {
            "multiarray._reconstruct": _Array,
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _array,  # in protocol 5
        }.items()
    },
}
