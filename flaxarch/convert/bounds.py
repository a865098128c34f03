"""What the readers share: files as bytes, JSON in little memory, and text for messages."""

import json
import mmap
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from flaxarch.convert.unpickle import CheckpointError

MAX_JSON = 2**23  # bytes; 50,000 tensors take half of it, and Python some 30 times as much

# What is compressed may take this much memory, and so many times the file's size: deflate's 1000 to 1 is a
# bomb, no network's weights.
INFLATED_SLACK, MAX_INFLATION = 2**26, 16


def mapped(path: str | os.PathLike[str]) -> np.ndarray:
    """The bytes of a file, mapped into memory; it must not change while arrays over them live."""
    with open(path, "rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def let_go(array: np.ndarray) -> None:
    """Tell the system that it need not keep the pages of a mapped file which this part of it was read from.

    They are read again where they are used again. Nothing happens to other arrays.
    """
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    file = owner.base.obj if isinstance(owner.base, memoryview) else owner.base
    if not (isinstance(file, mmap.mmap) and array.flags.c_contiguous and hasattr(mmap, "MADV_DONTNEED")):
        return
    start = array.ctypes.data - owner.ctypes.data
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    file.madvise(mmap.MADV_DONTNEED, first, start + array.nbytes - first)


def parse_json(content: np.ndarray, start: int = 0) -> Any:
    """Parses bytes that stand at `start` of what the error then speaks of; no key may come twice."""
    if content.size > MAX_JSON:
        raise CheckpointError(f"byte {start}: {content.size:,} bytes of JSON are over {MAX_JSON:,}")
    try:
        text = content.tobytes().decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"byte {start + error.start}: the JSON is no UTF-8 text") from error
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        position = start + len(text[: error.pos].encode())
        raise CheckpointError(f"byte {position}: this is no JSON ({error.msg})") from error
    except CheckpointError as error:
        raise CheckpointError(f"byte {start}: {error}") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise CheckpointError(
            f"byte {start}: the JSON is nested too deeply, or has absurd numbers"
        ) from error


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise CheckpointError(f"the JSON has the key {shown(key)} twice")
        result[key] = value
    return result


def shown(name: str) -> str:
    """A name from a file, as a message can show it, whatever it is: in quotes, on one line, not too long."""
    return repr(name if len(name) <= 100 else name[:97] + "...")


def plain(name: str) -> str:
    """A name from a file as it is, where that is short and can be printed, and else as `shown`."""
    return name if name.isprintable() and len(name) <= 100 else shown(name)


def without_elements(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array of a shape that has a zero."""
    try:
        return np.zeros(shape, dtype)
    except ValueError as error:  # its other sizes are beyond NumPy's
        raise CheckpointError("it has an absurd shape") from error


def one_line(text: str) -> str:
    """Text of any origin for a message, on one line and not too long."""
    return " ".join(text[:1000].encode(errors="backslashreplace").decode().split())[:300]


class Cursor:
    """Reads numbers and bytes one after the other, from a position of the file up to an end."""

    def __init__(self, data: np.ndarray, position: int, size: int):
        if position + size > data.size:
            raise CheckpointError(f"byte {position}: {size:,} bytes that begin here are not in the file")
        self.data, self.position, self.end = data, position, position + size

    def take(self, size: int) -> bytes:
        """The next bytes."""
        start, self.position = self.position, self.position + size
        if self.position > self.end:
            raise CheckpointError(
                f"byte {start}: {size:,} bytes are expected, and {self.end - start:,} are left"
            )
        return self.data[start : self.position].tobytes()

    def number(self, size: int) -> int:
        """The next unsigned integer."""
        return int.from_bytes(self.take(size), "little")

    def expect(self, content: bytes, what: str) -> None:
        """Checks that `content` comes next."""
        start = self.position
        if self.take(len(content)) != content:
            raise CheckpointError(f"byte {start}: {what} is not here")

    @property
    def left(self) -> int:
        """Number of bytes up to the end."""
        return self.end - self.position
