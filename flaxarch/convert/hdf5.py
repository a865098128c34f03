"""Reads Keras's weights: `.h5` (Keras 1 and 2, and legacy saving in 3), `.weights.h5` and `.keras` (Keras 3).

Tensors get the names that Keras 3 gives variables, "layer/kernel", whichever version wrote the file.
Nothing but numbers and names is taken: no layer is built from the file's configuration.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from flaxarch.convert.archive import Archive
from flaxarch.convert.bounds import INFLATED_SLACK, MAX_INFLATION, parse_json, shown
from flaxarch.convert.hdf5_data import Dataset
from flaxarch.convert.hdf5_tree import File, Node
from flaxarch.convert.unpickle import CheckpointError

WEIGHTS_OF_ARCHIVE, CONFIG_OF_ARCHIVE = "model.weights.h5", "config.json"

_MAX_DEPTH = 64  # of layers within layers

# Keras 1 names a layer's weights "NAME_W" or "NAME_running_std_1"; its "std" is a variance.
_KERAS1 = re.compile(r".*_(W|b|gamma|beta|running_mean|running_std|depthwise_kernel|pointwise_kernel)(_\d+)?")
_KERAS1_LEAVES = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}

# A layer without a name of its own has its class's, and a number: "conv2d_3", in Keras 1 "convolution2d_4".
_KINDS = {kind: kind for kind in ("conv2d", "batch_normalization", "separable_conv2d", "dense")} | {
    "convolution2d": "conv2d",
    "batchnormalization": "batch_normalization",
    "separableconvolution2d": "separable_conv2d",
}
_UNNAMED = re.compile(rf"({'|'.join(_KINDS)})(?:_([0-9]{{1,9}}))?")

# Keras 3 numbers a layer's variables: their names, by the layer's class and their number.
_BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_NUMBERED = {
    ("batch_normalization", 4): _BATCH_NORM,
    ("batch_normalization", 3): _BATCH_NORM[1:],  # the Inceptions' have no scale
    ("separable_conv2d", 2): ("depthwise_kernel", "pointwise_kernel"),
    ("separable_conv2d", 3): ("depthwise_kernel", "pointwise_kernel", "bias"),
}


def read_hdf5(data: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a `.h5` or `.weights.h5` file; those that are not in chunks are views of it."""
    return _read(data, {})


def read_keras_archive(archive: Archive) -> dict[str, np.ndarray]:
    """The tensors of a `.keras` file, which is a zip of weights and configuration."""
    layer_names = {}
    if CONFIG_OF_ARCHIVE in archive.entries:
        layer_names = _layer_names(_in_entry(CONFIG_OF_ARCHIVE, parse_json, archive.read(CONFIG_OF_ARCHIVE)))
    return _in_entry(WEIGHTS_OF_ARCHIVE, _read, archive.read(WEIGHTS_OF_ARCHIVE), layer_names)


def _in_entry(name: str, read: Callable[..., Any], *args: Any) -> Any:
    try:
        return read(*args)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error.__cause__


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


def _read(data: np.ndarray, layer_names: dict[str, str]) -> dict[str, np.ndarray]:
    root = File(data).root
    if root.links.get("model_weights") is not None:
        root = root.child("model_weights")
    named = list(_legacy(root) if _names(root, "layer_names") else _keras3(root, layer_names))
    return _arrays(data, _counted_from_zero(named))


def _legacy(root: Node) -> Iterator[tuple[str, Node]]:
    """(name, dataset) of a file with layers in groups, and lists of names in their attributes."""
    for layer in _names(root, "layer_names"):
        group = _child(root, layer)
        weights = _names(group, "weight_names")
        names = [_legacy_name(layer, weight) for weight in weights]
        if not any(
            name.endswith("/pointwise_kernel") for name in names
        ):  # Keras 3 calls it so only beside one
            names = [name.replace("/depthwise_kernel", "/kernel") for name in names]
        for name, weight in zip(names, weights, strict=True):
            yield name, _child(group, weight)


def _legacy_name(layer: str, weight: str) -> str:
    weight = re.sub(r":\d+$", "", weight)
    module, _, leaf = weight.rpartition("/")
    keras1 = None if module else _KERAS1.fullmatch(leaf)
    if keras1:
        return f"{layer}/{_KERAS1_LEAVES.get(keras1[1], keras1[1])}"
    return f"{module or layer}/{leaf}"


def _keras3(root: Node, layer_names: dict[str, str]) -> Iterator[tuple[str, Node]]:
    """(name, dataset) of a file whose layers have numbered variables in a group "vars"."""
    groups, seen = [(root, "", 0)], {root.address}
    while groups:
        group, key, depth = groups.pop()
        if depth > _MAX_DEPTH:
            raise CheckpointError(f"{group.name[:100]!r}... is over {_MAX_DEPTH} groups deep")
        for member in sorted(group.links, reverse=True):
            if member in ("optimizer", "metrics"):
                continue
            child = group.child(member)
            if child.address in seen:
                raise CheckpointError(f"{shown(f'{group.name}/{member}')} has another name in the file too")
            seen.add(child.address)
            if member == "vars":
                yield from _variables(child, layer_names.get(key, key), key)
            elif not child.is_dataset:
                groups.append((child, member, depth + 1))


def _variables(group: Node, name: str, key: str) -> Iterator[tuple[str, Node]]:
    """(name, dataset) of one layer, by its name in the file or else the one given."""
    names = group.texts("name") or [name]
    if len(names) != 1:
        raise CheckpointError(f"attribute 'name' of {shown(group.name)} is a list")
    datasets = [group.child(number) for number in sorted(group.links, key=_number)]
    for leaf, dataset in zip(_leaves(key, datasets), datasets, strict=True):
        yield f"{names[0]}/{leaf}", dataset


def _number(name: str) -> tuple[bool, int, str]:
    return (False, int(name), "") if re.fullmatch("[0-9]{1,9}", name) else (True, 0, name)


def _leaves(key: str, datasets: list[Any]) -> list[str]:
    kind = re.sub(r"_\d+$", "", key)
    if (kind, len(datasets)) in _NUMBERED:
        return list(_NUMBERED[kind, len(datasets)])
    leaves = ["kernel" if len(dataset.shape) > 1 else "bias" for dataset in datasets]
    return leaves if len(set(leaves)) == len(leaves) else [f"{kind}_{i}" for i in range(len(leaves))]


def _counted_from_zero(named: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Numbers of layers without a name of their own, as the first network of a session has them.

    Keras counts on from network to network, and in its first versions from one. Numbers with a gap are left
    as they are: a layer is missing, or is not of this network.
    """
    numbers: dict[str, set[int]] = {}
    for name, _ in named:
        kind, number = _kind(name)
        numbers.setdefault(kind, set()).add(number)
    starts = {kind: min(x) for kind, x in numbers.items() if max(x) - min(x) + 1 == len(x)}

    def renamed(name: str) -> str:
        kind, number = _kind(name)
        if not kind or kind not in starts:
            return name
        number -= starts[kind]
        return (f"{kind}_{number}/" if number else f"{kind}/") + name.rpartition("/")[2]

    return [(renamed(name), dataset) for name, dataset in named]


def _kind(name: str) -> tuple[str, int]:
    """ "conv2d_3/kernel" -> ("conv2d", 3); a layer with a name of its own -> ("", 0)."""
    match = _UNNAMED.fullmatch(name.rpartition("/")[0])
    return (_KINDS[match[1]], int(match[2] or 0)) if match else ("", 0)


def _names(group: Node, attribute: str) -> list[str]:
    """A list of names, which Keras splits over numbered attributes where it is long."""
    whole = group.texts(attribute)
    names, number = whole or [], 0 if whole is None else 1
    while (part := group.texts(f"{attribute}{number}")) is not None:
        names, number = names + part, number + 1
    return names


def _child(group: Node, path: str) -> Node:
    for name in path.split("/"):
        group = group.child(name)
    return group


def _arrays(data: np.ndarray, named: list[tuple[str, Node]]) -> dict[str, np.ndarray]:
    datasets: dict[str, Dataset] = {}
    for name, node in named:
        if name in datasets:
            raise CheckpointError(f"there are two tensors named {shown(name)}")
        datasets[name] = _of_tensor(name, Dataset, node)
    expected = 0
    for name, dataset in datasets.items():
        expected += dataset.stored
        if expected > INFLATED_SLACK + MAX_INFLATION * data.size:
            raise CheckpointError(
                f"the tensors up to {shown(name)} would take {expected:,} bytes, of a file of {data.size:,}"
            )
    return {name: _of_tensor(name, Dataset.array, dataset) for name, dataset in datasets.items()}


def _of_tensor(name: str, read: Callable[..., Any], *args: Any) -> Any:
    try:
        return read(*args)
    except CheckpointError as error:
        raise CheckpointError(f"tensor {shown(name)}: {error}") from error.__cause__
