"""Which network a checkpoint holds: its row, the source whose names it has, and how wide its head is."""

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxarch import registry
from flaxarch.convert.bounds import one_line, shown
from flaxarch.convert.files import Checkpoint, read_checkpoint
from flaxarch.convert.rules import FLAXARCH, Rules, slots
from flaxarch.convert.sources import SOURCES, Source
from flaxarch.convert.unpickle import CheckpointError
from flaxarch.functional import functional
from flaxarch.layers import Network

_MOST = 2**20  # of what a field of a model counts: classes, features, channels

OWN = Rules("flaxarch", FLAXARCH)


class Recognised(NamedTuple):
    """What a checkpoint was found to be."""

    name: str  # of the row
    source: str  # whose names its tensors have: "torchvision", ..., "flaxarch" for a file that `save` wrote
    model: Network  # the row's network with as many classes as the file has
    rules: Rules
    in_channels: int
    classes: tuple[str, ...] | None = None  # their names, where the file tells
    preprocessing: dict[str, Any] | None = None  # fields of a row, where the file or its source tells

    def __str__(self) -> str:
        return f"{self.name} with {self.source}'s names, {self.model.num_classes} classes"


def recognise(path: str | os.PathLike[str], name: str | None = None) -> Recognised:
    """What the file at `path` holds, by its metadata, or by its tensors' names and shapes.

    `name` is the row's, for tensors that fit several rows. Raises CheckpointError in one sentence where the
    file cannot be read, or is of no row or of several.
    """
    return recognise_checkpoint(read_checkpoint(path), Path(path).name, name)


def recognise_checkpoint(checkpoint: Checkpoint, what: str, name: str | None) -> Recognised:
    """As `recognise`, for what was read from the file `what`."""
    if checkpoint.metadata.get("format") == "flaxarch":
        return _own(checkpoint, what, name)
    if name is None:
        name, source = _only_fit(checkpoint, what)
        in_channels = registry.published(name).input_shape[2]
    else:
        source = _best_source(checkpoint, what, name)
        in_channels = _in_channels(checkpoint, name, source)
    model = _with_head_of(checkpoint, name, source)
    rules = source.rules_of(model)
    told = checkpoint.config
    preprocessing = {**(source.preprocessing or {}), **told.get("preprocessing", {})} or None
    classes = tuple(told.get("classes", ()))
    names = classes if len(classes) == model.num_classes else None
    return Recognised(name, rules.source, model, rules, in_channels, names, preprocessing)


def shapes_of(model: Network, channels: int | None = None) -> dict[str, Any]:
    """{"params": ..., "batch_stats": ...} as shapes, for images of the row's channels or of others."""
    images = images_of(model, channels)
    params, batch_stats = jax.eval_shape(functional(model).init, jax.random.key(0), images)
    return {"params": params, "batch_stats": batch_stats}


def images_of(model: Network, channels: int | None = None) -> jax.ShapeDtypeStruct:
    """One image as the model's row has it: parameters do not depend on its height and width."""
    height, width, row_channels = registry.published(registry.describe(model)[0]).input_shape
    return jax.ShapeDtypeStruct((1, height, width, channels or row_channels), jnp.float32)


def _own(checkpoint: Checkpoint, what: str, name: str | None) -> Recognised:
    """The model that `save` described in the metadata."""
    metadata = checkpoint.metadata
    try:
        own_name = metadata["name"]
        row = registry.create(own_name)
        fields = {key: _like(getattr(row, key), x) for key, x in json.loads(metadata["fields"]).items()}
        model: Network = row.clone(**fields)
        classes = tuple(json.loads(metadata["classes"])) if "classes" in metadata else None
        preprocessing = json.loads(metadata["preprocessing"]) if "preprocessing" in metadata else None
        in_channels = int(metadata.get("in_channels", registry.published(own_name).input_shape[2]))
        if not 1 <= in_channels <= _MOST:
            raise ValueError(f"its images have {in_channels} channels")
        _check_fields(fields, model, in_channels, len(checkpoint.tensors))
        if classes is not None and len(classes) != model.num_classes:
            raise ValueError(f"it names {len(classes)} classes, and its head has {model.num_classes}")
    except Exception as error:  # of any kind: fields of a damaged file lead anywhere
        reason = one_line(str(error))
        raise CheckpointError(f"{what} does not describe a model that flaxarch has: {reason}") from error
    if name not in (None, own_name):
        raise CheckpointError(f"{what} holds a {own_name}, not a {name}")
    return Recognised(own_name, "flaxarch", model, OWN, in_channels, classes, preprocessing)


def _check_fields(fields: dict[str, Any], model: Network, in_channels: int, num_tensors: int) -> None:
    """Traces a model of other fields than its row's, unless it would be far larger than the file."""
    largest = max(map(_largest, fields.values()), default=0)
    if largest > _MOST or not (type(model.num_classes) is int and model.num_classes > 0):
        raise ValueError(f"its fields have the number {largest}, and {model.num_classes} classes")
    if not fields.keys() - {"num_classes"}:
        return
    num_calls = 0

    def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls > 100 + 10 * num_tensors:
            raise ValueError(f"its fields make far more layers than the file's {num_tensors} tensors")
        return call(*args, **kwargs)

    with nn.intercept_methods(count):
        shapes_of(model, in_channels)


def _largest(value: Any) -> float:
    """The largest number in a field's value, of either sign."""
    if isinstance(value, int | float):
        return abs(value)
    return max(map(_largest, value), default=0) if isinstance(value, tuple) else 0


def _like(own: Any, value: Any) -> Any:
    """A field's value, of which JSON made lists, with the tuples of the row's own value."""
    if not isinstance(value, list):
        return value
    if hasattr(own, "_fields"):  # a named tuple
        return type(own)(*map(_like, own, value))
    first = own[0] if isinstance(own, tuple) and own else None
    return tuple(_like(first, x) for x in value)


def _only_fit(checkpoint: Checkpoint, what: str) -> tuple[str, Source]:
    fits = [
        (row, source) for source in SOURCES for row in source.rows if _count_fits(checkpoint, row, source)
    ]
    fits = [(row, source) for row, source in fits if _shapes_fit(checkpoint, row, source)]
    if len(fits) > 1 and checkpoint.config.get("row") in dict(fits):
        fits = [(row, source) for row, source in fits if row == checkpoint.config["row"]]
    if len(fits) != 1:
        rows = ", ".join(dict.fromkeys(row for row, _ in fits))
        found = f"fits several rows, {rows}" if rows else "fits no row that a library released"
        architecture = checkpoint.config.get("architecture")
        found += f" (its config.json names {shown(architecture)})" if architecture else ""
        raise CheckpointError(f"{what} {found}: say which network it is, load(path, name=...)")
    return fits[0]


def _best_source(checkpoint: Checkpoint, what: str, name: str) -> Source:
    model = registry.create(name)
    sources = [source for source in SOURCES if source.family is type(model)]
    sources = [source for source in sources if name in source.rows or not source.only_rows]
    if not sources:
        raise CheckpointError(f"there are no rules to read {name} from {what}")
    shapes = shapes_of(model)

    def num_names_in_common(source: Source) -> int:
        return sum(slot.name in checkpoint.tensors for slot in slots(shapes, source.rules_of(model)))

    return max(sources, key=num_names_in_common)


def _in_channels(checkpoint: Checkpoint, name: str, source: Source) -> int:
    """Channels of the file's images: read off the kernel whose shape depends on them."""
    model = registry.create(name)
    channels = registry.published(name).input_shape[2]
    rules = source.rules_of(model)
    pairs = zip(slots(shapes_of(model), rules), slots(shapes_of(model, channels + 1), rules), strict=True)
    for slot, other in pairs:
        tensor = checkpoint.tensors.get(slot.name)
        if slot.shape == other.shape or tensor is None or tensor.ndim != len(slot.source_shape):
            continue
        sizes = zip(slot.source_shape, other.source_shape, strict=True)
        (axis,) = (axis for axis, (size, more) in enumerate(sizes) if size != more)
        return tensor.shape[axis] or channels
    return channels


def _classes(checkpoint: Checkpoint, name: str, source: Source) -> int | None:
    """Classes of the head in the file, or None where the source's name for it is not there."""
    model = registry.create(name)
    rules = source.rules_of(model)
    layout = rules.layout
    kernel = checkpoint.tensors.get(rules.module(model.head) + layout.separator + layout.names["kernel"])
    if kernel is None or kernel.ndim not in layout.axes:
        return None
    return kernel.shape[np.argsort(layout.axes[kernel.ndim])[-1]]


def _with_head_of(checkpoint: Checkpoint, name: str, source: Source) -> Network:
    return registry.create(name, num_classes=_classes(checkpoint, name, source))


def _count_fits(checkpoint: Checkpoint, name: str, source: Source) -> bool:
    """Whether the file has as many elements as the row with heads like the file's."""
    model, row = registry.create(name), registry.published(name)
    classes, rules = _classes(checkpoint, name, source), source.rules_of(model)
    if not classes:
        return False
    heads = tuple(rules.module(head) + rules.layout.separator for head in (model.head, *model.aux_heads))
    tensors = {key: x.size for key, x in checkpoint.tensors.items() if not rules.drops(key)}
    per_class = sum(size for key, size in tensors.items() if key.startswith(heads)) // classes
    expected = row.num_params + row.num_batch_stats + (classes - row.num_classes) * per_class
    return expected == sum(tensors.values())


def _shapes_fit(checkpoint: Checkpoint, name: str, source: Source) -> bool:
    model = _with_head_of(checkpoint, name, source)
    rules = source.rules_of(model)
    shapes = {key: x.shape for key, x in checkpoint.tensors.items() if not rules.drops(key)}
    row_shapes = _shapes_of_row(name, model.num_classes)
    return shapes == {slot.name: slot.source_shape for slot in slots(row_shapes, rules)}


@functools.lru_cache(maxsize=16)
def _shapes_of_row(name: str, num_classes: int) -> dict[str, Any]:
    """Kept, as it takes a second or two, and a row is asked for once for each source that may have it."""
    return shapes_of(registry.create(name, num_classes))
