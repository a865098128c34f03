"""Reads Keras's weights: `.h5` (Keras 1 and 2, and legacy saving in 3), `.weights.h5` and `.keras` (Keras 3).

Tensors get the names that Keras 3 gives variables, "layer/kernel", whichever version wrote the file.
Nothing but numbers and names is taken: no layer is built from the file's configuration.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from flaxarch.convert.unpickle import CheckpointError

WEIGHTS_OF_ARCHIVE, CONFIG_OF_ARCHIVE = "model.weights.h5", "config.json"

# A file's tensors may be so many times larger than the file: compression of weights saves little.
_MAX_EXPANSION = 100

# Keras 1 names a layer's weights "NAME_W" or "NAME_running_std_1"; its "std" is a variance.
_KERAS1 = re.compile(r".*_(W|b|gamma|beta|running_mean|running_std)(_\d+)?")
_KERAS1_LEAVES = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}

# Keras 3 numbers a layer's variables: their names, by the layer's class and their number.
_BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_NUMBERED = {
    ("batch_normalization", 4): _BATCH_NORM,
    ("batch_normalization", 3): _BATCH_NORM[1:],  # the Inceptions' have no scale
    ("separable_conv2d", 2): ("depthwise_kernel", "pointwise_kernel"),
    ("separable_conv2d", 3): ("depthwise_kernel", "pointwise_kernel", "bias"),
}


def read_hdf5(path: str) -> dict[str, np.ndarray]:
    """The tensors of a `.h5` or `.weights.h5` file; those that are not compressed are views of it."""
    return _read(path, path, os.path.getsize(path), {})


def read_keras_archive(path: str) -> dict[str, np.ndarray]:
    """The tensors of a `.keras` file, which is a zip of weights and configuration."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(WEIGHTS_OF_ARCHIVE).file_size
            limit = _MAX_EXPANSION * os.path.getsize(path)
            if size > limit:
                raise CheckpointError(f"{path}: {WEIGHTS_OF_ARCHIVE} would unpack to {size:,} bytes: refused")
            with archive.open(WEIGHTS_OF_ARCHIVE) as file:
                content = file.read(limit)
            config = _config(archive, limit)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, KeyError, EOFError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the archive cannot be read ({error})") from error
    return _read(path, io.BytesIO(content), len(content), _layer_names(config))


def _config(archive: zipfile.ZipFile, limit: int) -> Any:
    if CONFIG_OF_ARCHIVE not in archive.namelist():
        return {}
    with archive.open(CONFIG_OF_ARCHIVE) as file:
        try:
            return json.loads(file.read(limit))
        except (ValueError, RecursionError):
            return {}


def _layer_names(config: Any) -> dict[str, str]:
    """The name of each layer by that of its group: its class, numbered (conv2d, conv2d_1, ...).

    Keras writes the name beside the variables; only its first releases left it to the configuration.
    """
    names, counts = {}, {}
    try:
        for layer in config["config"]["layers"]:
            group = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", layer["class_name"]).lower()
            group = group.replace("conv2_d", "conv2d")
            count = counts[group] = counts.get(group, -1) + 1
            names[f"{group}_{count}" if count else group] = layer["config"]["name"]
    except (KeyError, TypeError):
        return {}
    return names


def _read(path: str, source: Any, size: int, layer_names: dict[str, str]) -> dict[str, np.ndarray]:
    try:
        with h5py.File(source, "r") as file:
            root = file["model_weights"] if _is_hard(file, "model_weights") else file
            named = list(
                _legacy(path, root) if _names(root, "layer_names") else _keras3(path, root, layer_names)
            )
            return _arrays(path, source, size, named)
    except CheckpointError:
        raise
    except Exception as error:  # h5py raises what the damage happens to run into
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{path}: the HDF5 file cannot be read ({reason})") from error


def _legacy(path: str, root: Any) -> Iterator[tuple[str, Any]]:
    """(name, dataset) of a file with layers in groups, and lists of names in their attributes."""
    for layer in _names(root, "layer_names"):
        group = _child(path, root, layer)
        weights = _names(group, "weight_names")
        names = [_legacy_name(layer, weight) for weight in weights]
        if not any(
            name.endswith("/pointwise_kernel") for name in names
        ):  # Keras 3 calls it so only beside one
            names = [name.replace("/depthwise_kernel", "/kernel") for name in names]
        for name, weight in zip(names, weights, strict=True):
            yield name, _child(path, group, weight)


def _legacy_name(layer: str, weight: str) -> str:
    weight = re.sub(r":\d+$", "", weight)
    module, _, leaf = weight.rpartition("/")
    keras1 = None if module else _KERAS1.fullmatch(leaf)
    if keras1:
        return f"{layer}/{_KERAS1_LEAVES.get(keras1[1], keras1[1])}"
    return f"{module or layer}/{leaf}"


def _keras3(path: str, group: Any, layer_names: dict[str, str], key: str = "") -> Iterator[tuple[str, Any]]:
    """(name, dataset) of a file whose layers have numbered variables in a group "vars"."""
    for child in group:
        if child == "vars":
            variables = _child(path, group, child)
            datasets = [_child(path, variables, number) for number in sorted(variables, key=_number)]
            name = variables.attrs.get("name", layer_names.get(key, key))
            for leaf, dataset in zip(_leaves(key, datasets), datasets, strict=True):
                yield f"{name}/{leaf}", dataset
        elif child not in ("optimizer", "metrics") and isinstance(_child(path, group, child), h5py.Group):
            yield from _keras3(path, group[child], layer_names, child)


def _number(name: str) -> tuple[bool, int, str]:
    return (False, int(name), "") if name.isdecimal() else (True, 0, name)


def _leaves(key: str, datasets: list[Any]) -> list[str]:
    kind = re.sub(r"_\d+$", "", key)
    if (kind, len(datasets)) in _NUMBERED:
        return list(_NUMBERED[kind, len(datasets)])
    leaves = ["kernel" if len(dataset.shape) > 1 else "bias" for dataset in datasets]
    return leaves if len(set(leaves)) == len(leaves) else [f"{kind}_{i}" for i in range(len(leaves))]


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names, which Keras splits over numbered attributes where it is long."""
    parts = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    names = [name for part in parts for name in np.ravel(group.attrs[part])]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _is_hard(group: Any, name: str) -> bool:
    return isinstance(group.get(name, getlink=True), h5py.HardLink)


def _child(path: str, group: Any, name: str) -> Any:
    """A member of a group, inside this file: links may lead anywhere."""
    for part in name.split("/"):
        if not _is_hard(group, part):
            raise CheckpointError(f"{path}: {group.name}/{part} is missing, or a link, which is not followed")
        group = group[part]
    return group


def _arrays(path: str, source: Any, size: int, named: list[tuple[str, Any]]) -> dict[str, np.ndarray]:
    for name, dataset in named:
        if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
            raise CheckpointError(f"{path}: {name!r} is no tensor of this file")
        if dataset.dtype.kind not in "fiub":
            raise CheckpointError(f"{path}: tensor {name!r} has the unsupported dtype {dataset.dtype}")
    expected = sum(dataset.nbytes for _, dataset in named)
    if expected > _MAX_EXPANSION * size:
        raise CheckpointError(
            f"{path}: the tensors would take {expected:,} bytes, of a file of {size:,}: refused"
        )
    tensors: dict[str, np.ndarray] = {}
    for name, dataset in named:
        if name in tensors:
            raise CheckpointError(f"{path}: there are two tensors named {name!r}")
        tensors[name] = _array(source, dataset)
    return tensors


def _array(source: Any, dataset: Any) -> np.ndarray:
    offset = dataset.id.get_offset()  # None where it is in chunks, compact, or not written
    if isinstance(source, str) and offset is not None and dataset.size:
        array = np.memmap(source, dataset.dtype, "r", offset, dataset.shape)
    else:
        array = dataset[()]
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
