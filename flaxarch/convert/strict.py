"""The one strict loader: every tensor used once, every leaf filled once, every shape equal; or one error."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flaxarch.convert.bounds import let_go, plain
from flaxarch.convert.rules import Rules, Slot, slots
from flaxarch.convert.unpickle import CheckpointError

_BLOCK = 2**24  # bytes
_MOST_NAMED = 20  # of each kind of offender; the error says how many more there are
_MOST_CHARACTERS = 1600  # of all names of offenders: those of a damaged file can be of any length


def fill(shapes: Any, tensors: Mapping[str, np.ndarray], rules: Rules, *, what: str) -> dict[str, Any]:
    """The tree {"params": ..., "batch_stats": ...} of `shapes`, filled from a checkpoint's tensors.

    Half-precision tensors become float32, which holds them exactly; float64 stays where JAX has it enabled.
    Raises CheckpointError, which lists all missing, unexpected and misshapen tensors of `what` together.
    """
    table = list(slots(shapes, rules))
    used = {slot.name for slot in table}
    missing = [f"{slot.name} {slot.source_shape}" for slot in table if slot.name not in tensors]
    unexpected = [
        f"{plain(name)} {str(tensor.shape)[:100]}"
        for name, tensor in tensors.items()
        if name not in used and not rules.drops(name)
    ]
    misshapen = [
        f"{slot.name} {str(tensors[slot.name].shape)[:100]} instead of {slot.source_shape}"
        for slot in table
        if slot.name in tensors and tensors[slot.name].shape != slot.source_shape
    ]
    offenders = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(offenders.values()):
        raise CheckpointError(f"{what} does not fit the model, {_found(offenders)}")

    filled: dict[str, Any] = {collection: {} for collection in shapes}
    for slot in table:
        module = filled
        for key in slot.path[:-1]:
            module = module.setdefault(key, {})
        module[slot.path[-1]] = _leaf(tensors[slot.name], slot)
    return filled


def _leaf(tensor: np.ndarray, slot: Slot) -> jax.Array:
    """The leaf of a slot, block by block, so that a mapped file and the model are not in memory together."""
    wide = tensor.dtype if tensor.dtype in (np.float32, np.float64) else np.dtype(np.float32)
    leaf = _aligned_empty(slot.shape, np.dtype(jax.dtypes.canonicalize_dtype(wide)))
    source, target = np.atleast_1d(slot.in_source_order(tensor)), np.atleast_1d(leaf.transpose(slot.axes))
    num_rows = max(1, _BLOCK * len(source) // max(1, source.nbytes))
    for start in range(0, len(source), num_rows):
        block = source[start : start + num_rows]
        target[start : start + num_rows] = block
        let_go(block)
    return jax.device_put(leaf)


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array at an address that JAX takes over without a copy, on CPU."""
    num_bytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(num_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + num_bytes].view(dtype).reshape(shape)


def _found(offenders: dict[str, list[str]]) -> str:
    """How many of each kind, and their names; the shorter lists leave what they do not take to the longer."""
    lists, num_left = {}, _MOST_CHARACTERS
    kinds = sorted((kind for kind in offenders if offenders[kind]), key=lambda kind: len(offenders[kind]))
    for i, kind in enumerate(kinds):
        lists[kind] = _list(offenders[kind], num_left // (len(kinds) - i))
        num_left -= len(lists[kind])
    return "; ".join(f"{len(offenders[kind])} {kind}: {lists[kind]}" for kind in offenders if kind in lists)


def _list(names: list[str], num_characters: int) -> str:
    num_named, size = 0, 0
    for name in names[:_MOST_NAMED]:
        size += len(name) + 2
        if num_named and size > num_characters:
            break
        num_named += 1
    more = len(names) - num_named
    return ", ".join(names[:num_named]) + (f" and {more} more" if more else "")
