"""What HDF5's messages say of elements: their type, and how many there are along each axis."""

import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flaxarch.convert.bounds import Cursor
from flaxarch.convert.unpickle import CheckpointError

MAX_AXES = 32  # HDF5's own limit

_CLASSES = ("integers", "floats", "times", "text", "bits", "opaque elements", "records", "references")
_CLASSES += ("enumerated values", "sequences", "arrays")

# Floats, by the number of bits, and by where exponent and mantissa stand, their sizes, and the bias.
_FLOATS: dict[tuple[int, ...], np.dtype[Any]] = {
    (16, 10, 5, 0, 10, 15): np.dtype("<f2"),
    (16, 7, 8, 0, 7, 127): np.dtype(ml_dtypes.bfloat16),
    (32, 23, 8, 0, 23, 127): np.dtype("<f4"),
    (64, 52, 11, 0, 52, 1023): np.dtype("<f8"),
}


class Datatype(NamedTuple):
    """Type of the elements of a dataset or an attribute."""

    kind: str  # "floats", "text" of fixed size, "texts" in a heap, "opaque elements", ...
    size: int  # bytes of an element
    dtype: np.dtype[Any] | None = None  # of integers and floats that NumPy has
    padding: bytes = b""  # what follows a text of fixed size


def read_datatype(cursor: Cursor) -> Datatype:
    """A datatype message (IV.A.2.d)."""
    start = cursor.position
    kind, bits, size = cursor.number(1) & 15, cursor.number(3), cursor.number(4)
    if kind >= len(_CLASSES):
        raise CheckpointError(f"byte {start}: there is no class {kind} of datatypes")
    match _CLASSES[kind]:
        case "integers":
            is_whole = (cursor.number(2), cursor.number(2)) == (0, 8 * size) and size in (1, 2, 4, 8)
            sign = "i" if bits & 8 else "u"
            return Datatype("integers", size, np.dtype(f"{'<>'[bits & 1]}{sign}{size}") if is_whole else None)
        case "floats":
            offset, precision = cursor.number(2), cursor.number(2)
            form: tuple[int, ...] = (precision, *cursor.take(4), cursor.number(4))
            is_known = offset == 0 and precision == 8 * size and bits & ~1 == (precision - 1) << 8 | 0x20
            dtype = _FLOATS.get(form) if is_known else None
            if dtype is not None and bits & 1:
                dtype = dtype.newbyteorder(">") if dtype.kind == "f" else None
            return Datatype("floats", size, dtype)
        case "text":
            return Datatype("text", size, padding=b" " if bits & 15 == 2 else b"\0")
        case "sequences" if bits & 15 == 1:
            return Datatype("texts", size)
        case other:
            return Datatype(other, size)


def read_shape(cursor: Cursor) -> tuple[int, ...] | None:
    """A dataspace message (IV.A.2.b); None where there are no elements at all."""
    start = cursor.position
    version, num_axes, _flags, kind = cursor.number(1), cursor.number(1), cursor.number(1), cursor.number(1)
    if version not in (1, 2) or num_axes > MAX_AXES:
        raise CheckpointError(f"byte {start}: no shape of up to {MAX_AXES} axes is here")
    if version == 1:
        cursor.take(4)
    shape = tuple(cursor.number(8) for _ in range(num_axes))
    if any(size >= 2**63 for size in shape):
        raise CheckpointError(f"byte {start}: the shape {shape} is no shape of numbers")
    return None if version == 2 and kind == 2 else shape


def num_elements(shape: tuple[int, ...] | None) -> int:
    """Product of the sizes."""
    return 0 if shape is None else math.prod(shape)
