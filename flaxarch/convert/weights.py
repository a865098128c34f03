"""Load a checkpoint into a model, save one, and hand one back to torch."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from flaxarch import registry
from flaxarch.convert.files import Checkpoint, read_checkpoint
from flaxarch.convert.rules import FLAXARCH, TORCH, Rules, slots
from flaxarch.convert.sources import SOURCES, Source
from flaxarch.convert.strict import fill
from flaxarch.convert.unpickle import CheckpointError
from flaxarch.functional import functional
from flaxarch.layers import Network

_OWN = Rules("flaxarch", FLAXARCH)


def load(
    path: str | os.PathLike[str],
    name: str | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
) -> tuple[Network, dict[str, Any]]:
    """A checkpoint as (model, variables): {"params": ..., "batch_stats": ...}, for `model.apply`.

    Args:
      path: a `.pth`, `.pt`, `.th`, `.tar`, `.safetensors`, `.h5`, `.weights.h5` or `.keras` file with the
        names of torchvision, timm or Keras, or written by `save`. Nothing in it is executed, and no other
        framework is needed.
      name: the row of the registry; None where the file tells, or its tensors fit one row only.
      num_classes: None for as many as the file has. Another number keeps the body and starts the head afresh,
        from seed 0; a warning says so.
      in_channels: None for as many as the file has. Another number adapts the kernels that read the image as
        timm does: 1 sums them over the file's channels; n repeats these in order, times the file's number
        over n, so that equal channels give what they gave.

    Raises CheckpointError in one sentence: the file cannot be read, or is of no row or of several, or its
    tensors do not fit, and then all missing, unexpected and misshapen ones are named.
    """
    what, checkpoint = Path(path).name, read_checkpoint(path)
    if checkpoint.metadata.get("format") == "flaxarch":
        model, rules = _own_model(checkpoint, what, name), _OWN
    else:
        model, rules = _recognise(checkpoint, what, name)
    channels = int(checkpoint.metadata.get("in_channels", 0)) or None
    variables = fill(_shapes(model, channels), checkpoint.tensors, rules, what=what)
    if in_channels is not None:
        variables = variables | {"params": _with_channels(model, variables["params"], in_channels)}
        channels = in_channels
    classes = model.num_classes
    if num_classes in (None, classes):
        return model, variables

    warnings.warn(
        f"{what} has a head of {classes} classes: the body is loaded, and the head of {num_classes} is new",
        stacklevel=2,
    )
    model = model.clone(num_classes=num_classes)
    return model, variables | {"params": _with_new_heads(model, variables["params"], channels)}


def _with_new_heads(model: Network, params: Any, channels: int | None) -> Any:
    """Parameters for the model's classes: afresh where their shape depends on them, auxiliary heads too."""
    images, init = _images(model, channels), functional(model).init

    def heads(key: jax.Array) -> Any:
        new = init(key, images)[0]
        return jax.tree.map(lambda x, old: None if x.shape == old.shape else x, new, params)

    fresh = jax.jit(heads)(jax.random.key(0))  # draws no other parameter
    return jax.tree.map(lambda x, old: old if x is None else x, fresh, params, is_leaf=lambda x: x is None)


def _with_channels(model: Network, params: Any, in_channels: int) -> Any:
    """Parameters for images of `in_channels`: other kernels where their shape depends on it."""
    if in_channels < 1:
        raise ValueError(f"in_channels is {in_channels}: an image has at least one channel")

    def adapt(kernel: jax.Array, other: jax.ShapeDtypeStruct) -> jax.Array:
        if kernel.shape == other.shape:
            return kernel
        if in_channels == 1:
            return kernel.sum(axis=2, keepdims=True)
        repeated = jnp.tile(kernel, (1, 1, -(-in_channels // kernel.shape[2]), 1))[:, :, :in_channels]
        return repeated * (kernel.shape[2] / in_channels)

    return jax.tree.map(adapt, params, _shapes(model, in_channels)["params"])


def save(path: str | os.PathLike[str], model: Network, variables: dict[str, Any]) -> None:
    """Write a `.safetensors` file from which `load` makes the same model with the same variables.

    Its metadata holds the row's name, the fields that differ from it, and the row's preprocessing. The file
    appears whole or not at all.
    """
    name, fields = registry.describe(model)
    row = registry.published(name)
    of_pictures = ("input_shape", "resize", "interpolation", "mean", "std", "channels")
    preprocessing = {key: getattr(row, key) for key in of_pictures}
    metadata = {
        "format": "flaxarch",
        "name": name,
        "fields": json.dumps(fields),
        "in_channels": str(_channels(model, variables)),
        "preprocessing": json.dumps(preprocessing),
    }
    part = Path(path).with_name(Path(path).name + ".part")
    safetensors.numpy.save_file(_export(model, variables, _OWN), part, metadata)
    os.replace(part, path)


def to_torch(model: Network, variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """The variables as a state dict of NumPy arrays, with the names and the layout of the torch library.

    That is the first of those that have the network: torchvision, timm, and for networks which neither has,
    torchvision's manner. `torch.from_numpy` on each makes what `load_state_dict(strict=True)` takes.
    """
    name = registry.describe(model)[0]
    fits = [source for source in SOURCES if isinstance(model, source.family)]
    fits = [source for source in fits if source.rules_of(model).layout is TORCH]
    if not fits:
        raise ValueError(f"there are no torch names for {type(model).__name__}")
    best = next((source for source in fits if name in source.rows), fits[0])
    return _export(model, variables, best.rules_of(model))


def _export(model: Network, variables: dict[str, Any], rules: Rules) -> dict[str, np.ndarray]:
    expected = _shapes(model, _channels(model, variables))
    if jax.tree.map(jnp.shape, variables) != jax.tree.map(jnp.shape, expected):
        raise ValueError(f"these variables are not of this {type(model).__name__}: names or shapes differ")
    leaves = jax.tree.leaves(variables)
    return {slot.name: slot.to_source(x) for slot, x in zip(slots(variables, rules), leaves, strict=True)}


def _own_model(checkpoint: Checkpoint, what: str, name: str | None) -> Network:
    """The model that `save` described in the metadata."""
    try:
        own_name = checkpoint.metadata["name"]
        fields = json.loads(checkpoint.metadata["fields"])
        fields = {key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()}
        model: Network = registry.create(own_name).clone(**fields)  # pyright: ignore[reportArgumentType]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{what} does not describe a model that flaxarch has: {error}") from error
    if name not in (None, own_name):
        raise CheckpointError(f"{what} holds a {own_name}, not a {name}")
    return model


def _recognise(checkpoint: Checkpoint, what: str, name: str | None) -> tuple[Network, Rules]:
    """Model and rules for a file of another library; the head is as wide as the file's."""
    if name is not None:
        family = type(registry.create(name))
        sources = [source for source in SOURCES if source.family is family]
        if not sources:
            raise CheckpointError(f"there are no rules to read {name} from {what}")
        best = max(sources, key=lambda source: _names_in_common(checkpoint, name, source))
        model = _with_head_of(checkpoint, name, best)
        return model, best.rules_of(model)

    fits = [
        (row, source) for source in SOURCES for row in source.rows if _count_fits(checkpoint, row, source)
    ]
    fits = [(row, source) for row, source in fits if _shapes_fit(checkpoint, row, source)]
    if len(fits) != 1:
        rows = ", ".join(row for row, _ in fits)
        found = f"fits several rows, {rows}" if rows else "fits no row that a library released"
        raise CheckpointError(f"{what} {found}: say which network it is, load(path, name=...)")
    ((row, source),) = fits
    model = _with_head_of(checkpoint, row, source)
    return model, source.rules_of(model)


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
    if classes is None:
        return False
    heads = tuple(rules.module(head) + rules.layout.separator for head in (model.head, *model.aux_heads))
    tensors = {key: x.size for key, x in checkpoint.tensors.items() if not rules.drops(key)}
    per_class = sum(size for key, size in tensors.items() if key.startswith(heads)) // classes
    expected = row.num_params + row.num_batch_stats + (classes - row.num_classes) * per_class
    return expected == sum(tensors.values())


def _source_shapes(checkpoint: Checkpoint, name: str, source: Source) -> dict[str, tuple[int, ...]]:
    model = _with_head_of(checkpoint, name, source)
    return {slot.name: slot.source_shape for slot in slots(_shapes(model), source.rules_of(model))}


def _shapes_fit(checkpoint: Checkpoint, name: str, source: Source) -> bool:
    rules = source.rules_of(registry.create(name))
    shapes = {key: x.shape for key, x in checkpoint.tensors.items() if not rules.drops(key)}
    return shapes == _source_shapes(checkpoint, name, source)


def _names_in_common(checkpoint: Checkpoint, name: str, source: Source) -> int:
    return len(checkpoint.tensors.keys() & _source_shapes(checkpoint, name, source).keys())


def _channels(model: Network, variables: dict[str, Any]) -> int:
    """Channels of the images that these variables were made for: read off the one kernel that they decide."""
    row = registry.published(registry.describe(model)[0])
    pairs = zip(jax.tree.leaves(_shapes(model)["params"]), jax.tree.leaves(variables["params"]), strict=False)
    for expected, found in pairs:
        if len(expected.shape) == 4 and expected.shape[2] != jnp.shape(found)[2]:
            return jnp.shape(found)[2]
    return row.input_shape[2]


def _images(model: Network, channels: int | None = None) -> jax.ShapeDtypeStruct:
    """One image as the model's row has it: parameters do not depend on its height and width."""
    height, width, row_channels = registry.published(registry.describe(model)[0]).input_shape
    return jax.ShapeDtypeStruct((1, height, width, channels or row_channels), jnp.float32)


def _shapes(model: Network, channels: int | None = None) -> dict[str, Any]:
    images = _images(model, channels)
    params, batch_stats = jax.eval_shape(functional(model).init, jax.random.key(0), images)
    return {"params": params, "batch_stats": batch_stats}
