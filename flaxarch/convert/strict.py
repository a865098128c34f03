"""The one strict loader: every tensor used once, every leaf filled once, every shape equal; or one error."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flaxarch.convert.rules import Rules, Slot, slots
from flaxarch.convert.unpickle import CheckpointError

_MOST_NAMED = 20  # of each kind of offender; the error says how many more there are


def fill(shapes: Any, tensors: Mapping[str, np.ndarray], rules: Rules, *, what: str) -> dict[str, Any]:
    """The tree {"params": ..., "batch_stats": ...} of `shapes`, filled from a checkpoint's tensors.

    Half-precision tensors become float32, which holds them exactly; float64 stays where JAX has it enabled.
    Raises CheckpointError, which lists all missing, unexpected and misshapen tensors of `what` together.
    """
    table = list(slots(shapes, rules))
    used = {slot.name for slot in table}
    missing = [f"{slot.name} {slot.source_shape}" for slot in table if slot.name not in tensors]
    unexpected = [
        f"{name} {tensor.shape}"
        for name, tensor in tensors.items()
        if name not in used and not rules.drops(name)
    ]
    misshapen = [
        f"{slot.name} {tensors[slot.name].shape} instead of {slot.source_shape}"
        for slot in table
        if slot.name in tensors and tensors[slot.name].shape != slot.source_shape
    ]
    offenders = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(offenders.values()):
        found = "; ".join(
            f"{len(names)} {kind}: {_list(names)}" for kind, names in offenders.items() if names
        )
        raise CheckpointError(f"{what} does not fit the model, {found}")

    filled: dict[str, Any] = {collection: {} for collection in shapes}
    for slot in table:
        module = filled
        for key in slot.path[:-1]:
            module = module.setdefault(key, {})
        module[slot.path[-1]] = _leaf(tensors[slot.name], slot)
    return filled


def _leaf(tensor: np.ndarray, slot: Slot) -> jax.Array:
    wide = tensor.dtype if tensor.dtype in (np.float32, np.float64) else np.float32
    return jax.numpy.asarray(slot.from_source(tensor), dtype=jax.dtypes.canonicalize_dtype(wide))


def _list(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
