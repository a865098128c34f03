"""Load a checkpoint into a model, save one, and hand one back to torch."""

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from flaxarch import registry
from flaxarch.convert.files import read_checkpoint
from flaxarch.convert.recognise import OWN, images_of, recognise_checkpoint, shapes_of
from flaxarch.convert.rules import TORCH, Rules, slots
from flaxarch.convert.sources import SOURCES
from flaxarch.convert.strict import fill
from flaxarch.functional import functional
from flaxarch.layers import Network
from flaxarch.loops import unstack_blocks

_log = logging.getLogger("flaxarch")


def load(
    path: str | os.PathLike[str],
    name: str | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
) -> tuple[Network, dict[str, Any]]:
    """A checkpoint as (model, variables): {"params": ..., "batch_stats": ...}, for `model.apply`.

    What was recognised is logged, as information, by the logger "flaxarch".

    Args:
      path: a `.pth`, `.pt`, `.th`, `.tar`, `.safetensors`, `.h5`, `.weights.h5` or `.keras` file with the
        names of torchvision, timm, Keras or pytorchcv, or written by `save`. Nothing in it is executed, and
        no other framework is needed.
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
    found = recognise_checkpoint(checkpoint, what, name)
    _log.info("%s is a %s", what, found)
    model, channels = found.model, found.in_channels
    variables = fill(shapes_of(model, channels), checkpoint.tensors, found.rules, what=what)
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


def _with_new_heads(model: Network, params: Any, channels: int) -> Any:
    """Parameters for the model's classes: afresh where their shape depends on them, auxiliary heads too."""
    images, init = images_of(model, channels), functional(model).init

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

    return jax.tree.map(adapt, params, shapes_of(model, in_channels)["params"])


def save(
    path: str | os.PathLike[str],
    model: Network,
    variables: dict[str, Any],
    classes: Sequence[str] | None = None,
    provenance: Mapping[str, str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Write a `.safetensors` file from which `load` makes the same model with the same variables.

    Its metadata holds the row's name, the fields that differ from it, the row's preprocessing, in which
    `preprocessing` stands for other values of its fields, and, where they are given, the names of the classes
    and the provenance: where the weights come from, in free words. The file appears whole or not at all. Of a
    network with its blocks in a loop, `scan`, it holds the ordinary form.
    """
    model, variables = _written_out(model, variables)
    name, fields = registry.describe(model)
    row = registry.published(name)
    if classes is not None and len(classes) != model.num_classes:
        raise ValueError(f"there are {len(classes)} names for {model.num_classes} classes")
    of_pictures = ("input_shape", "resize", "interpolation", "mean", "std", "channels")
    pixels = {key: getattr(row, key) for key in of_pictures} | dict(preprocessing or {})
    metadata = {
        "format": "flaxarch",
        "name": name,
        "fields": json.dumps(fields),
        "in_channels": str(_channels(model, variables)),
        "preprocessing": json.dumps(pixels),
    }
    if classes is not None:
        metadata["classes"] = json.dumps(list(classes))
    if provenance is not None:
        metadata["provenance"] = json.dumps(dict(provenance))
    part = Path(path).with_name(Path(path).name + ".part")
    try:
        safetensors.numpy.save_file(_export(model, variables, OWN), part, metadata)
        part.chmod(0o666 & ~_umask())  # the library leaves it to its owner alone
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def to_torch(model: Network, variables: dict[str, Any], source: str | None = None) -> dict[str, np.ndarray]:
    """The variables as a state dict of NumPy arrays, with the names and the layout of a torch library.

    `source` is the library: "torchvision", "timm", "pytorchcv". None is the first of those that have the
    network, and for networks which none has, torchvision's manner. `torch.from_numpy` on each makes what
    `load_state_dict(strict=True)` takes, and `flaxarch.convert.write_torch` a file.
    """
    model, variables = _written_out(model, variables)
    return _export(model, variables, torch_rules(model, source))


def _written_out(model: Network, variables: dict[str, Any]) -> tuple[Network, dict[str, Any]]:
    """The same without a loop over blocks, whose stacked variables no file has."""
    if not (hasattr(model, "loops") and getattr(model, "scan", False)):
        return model, variables
    return model.clone(scan=False), unstack_blocks(variables)  # pyright: ignore[reportCallIssue]


def torch_rules(model: Network, source: str | None = None) -> Rules:
    """The names and the layout that `to_torch` gives; their `source` is the library."""
    name = registry.describe(model)[0]
    fits = [x for x in SOURCES if isinstance(model, x.family) and x.rules_of(model).layout is TORCH]
    libraries = dict.fromkeys(x.rules_of(model).source for x in fits)
    fits = [x for x in fits if source in (None, x.rules_of(model).source)]
    if not fits:
        others = f", but of {', '.join(libraries)}" if libraries else ""
        raise ValueError(f"there are no names of {source or 'torch'} for {type(model).__name__}{others}")
    best = next((x for x in fits if name in x.rows), fits[0])
    return best.rules_of(model)


def _export(model: Network, variables: dict[str, Any], rules: Rules) -> dict[str, np.ndarray]:
    expected = shapes_of(model, _channels(model, variables))
    if jax.tree.map(jnp.shape, variables) != jax.tree.map(jnp.shape, expected):
        raise ValueError(f"these variables are not of this {type(model).__name__}: names or shapes differ")
    leaves = jax.tree.leaves(variables)
    return {slot.name: slot.to_source(x) for slot, x in zip(slots(variables, rules), leaves, strict=True)}


def _channels(model: Network, variables: dict[str, Any]) -> int:
    """Channels of the images that these variables were made for: read off the one kernel that they decide."""
    row = registry.published(registry.describe(model)[0])
    pairs = zip(
        jax.tree.leaves(shapes_of(model)["params"]), jax.tree.leaves(variables["params"]), strict=False
    )
    for expected, found in pairs:
        if len(expected.shape) == 4 and expected.shape[2] != jnp.shape(found)[2]:
            return jnp.shape(found)[2]
    return row.input_shape[2]
