"""Reads `.safetensors` files: eight bytes with the header's size, the header as JSON, the tensors' bytes.

Not by the library, which copies every tensor, and whose errors name neither tensor nor byte.
Source: the format's description, https://github.com/huggingface/safetensors#format.
"""

import math
from typing import Any

import ml_dtypes
import numpy as np

from flaxarch.convert.bounds import MAX_JSON, parse_json, shown, without_elements
from flaxarch.convert.unpickle import CheckpointError

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    "BOOL": np.dtype(np.bool_),
}


def read_safetensors(data: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors, which are views of the file's bytes, and metadata.

    Every byte behind the header belongs to exactly one tensor, as the format demands.
    """
    header_size = int.from_bytes(data[:8].tobytes(), "little")
    start = 8 + header_size
    if header_size > min(MAX_JSON, data.size - 8):
        raise CheckpointError(
            f"byte 0: a header of {header_size:,} bytes, in a file of {data.size:,}, and at most {MAX_JSON:,}"
        )
    header = parse_json(data[8:start], start=8)
    if type(header) is not dict:
        raise CheckpointError("byte 8: the header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise CheckpointError("byte 8: the metadata in the header is not text by name")

    tensors, parts = {}, []
    for name, entry in header.items():
        try:
            dtype, shape, first, last = _described(entry, data.size - start)
            if first == last:  # an empty tensor is at no place
                tensors[name] = without_elements(shape, dtype)
            else:
                tensors[name] = np.ndarray(shape, dtype, data, start + first)
        except CheckpointError as error:
            raise CheckpointError(f"tensor {shown(name)}: {error}") from error.__cause__
        parts.append((first, last, name))
    _check_cover(sorted(parts), data.size, start)
    for tensor in tensors.values():
        tensor.flags.writeable = False
    return tensors, metadata


def _described(entry: Any, num_bytes: int) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Dtype, shape, first byte and the one behind the last, counted from the end of the header."""
    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError("it is not described by dtype, shape and data_offsets")
    if type(entry["dtype"]) is not str or entry["dtype"] not in _DTYPES:
        raise CheckpointError(f"it has the unsupported dtype {str(entry['dtype'])[:20]!r}")
    dtype, shape, offsets = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > 64:  # NumPy's own limit
        raise CheckpointError("it has a shape that is no list of up to 64 sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= num_bytes:
        raise CheckpointError(f"it has data_offsets that are no range of the {num_bytes:,} bytes of data")
    first, last = offsets
    if math.prod(shape) * dtype.itemsize != last - first:
        raise CheckpointError(f"it has data_offsets {first} to {last}, which its shape and dtype do not fill")
    return dtype, tuple(shape), first, last


def _are_sizes(values: Any) -> bool:
    return type(values) is list and all(type(x) is int and 0 <= x < 2**63 for x in values)


def _check_cover(parts: list[tuple[int, int, str]], size: int, start: int) -> None:
    position = 0
    for first, last, name in parts:
        if first != position:
            problem = "overlaps the one before it" if first < position else "leaves bytes unused before it"
            raise CheckpointError(f"tensor {shown(name)}, at byte {start + first}, {problem}")
        position = last
    if start + position != size:
        raise CheckpointError(f"byte {start + position}: the bytes from here on belong to no tensor")
