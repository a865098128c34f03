"""The sound files that are damaged: small networks in every format, written without the other frameworks."""

import io
from functools import cache
from typing import Any, NamedTuple

import h5py
import jax
import numpy as np

import flaxarch
from flaxarch.convert import keras, torchvision
from flaxarch.convert.recognise import shapes_of
from flaxarch.convert.rules import Rules, slots

Tensors = dict[str, np.ndarray]

TORCH_ROWS = {"lenet5": torchvision.LENET, "resnet20": torchvision.CIFAR_RESNET}
KERAS_ROWS = {"resnet8_keras": keras.RESNET8}


class Base(NamedTuple):
    """A row of the registry, and its tensors under a library's names."""

    row: str
    tensors: Tensors


@cache
def base(row: str) -> Base:
    """Random tensors for all leaves of a row."""
    rules: Rules = (TORCH_ROWS | KERAS_ROWS)[row]
    rng = np.random.default_rng(0)
    table = slots(shapes_of(flaxarch.create(row)), rules)
    return Base(row, {x.name: rng.normal(size=x.source_shape).astype(np.float32) for x in table})


@cache
def variables(row: str) -> list[np.ndarray]:
    """What a sound file of the row loads as."""
    tensors, rules = base(row).tensors, (TORCH_ROWS | KERAS_ROWS)[row]
    table = slots(shapes_of(flaxarch.create(row)), rules)
    return [np.asarray(x.from_source(tensors[x.name])) for x in table]


def equals(row: str, loaded: Any) -> bool:
    """Whether variables are those of the sound file."""
    leaves, expected = jax.tree.leaves(loaded), variables(row)
    return len(leaves) == len(expected) and all(map(np.array_equal, leaves, expected))


def hdf5(write: Any, **options: Any) -> bytes:
    """The bytes of an HDF5 file that `write(file)` fills."""
    content = io.BytesIO()
    with h5py.File(content, "w", **options) as file:
        write(file)
    return content.getvalue()


def _layers(tensors: Tensors) -> dict[str, Tensors]:
    layers: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition("/")
        layers.setdefault(layer, {})[leaf] = tensor
    return layers


def keras2(file: Any, tensors: Tensors, **storage: Any) -> None:
    """A whole model: groups of layers with "layer/kernel:0", lists of names in attributes."""
    file.attrs["keras_version"], file.attrs["backend"] = "2.4.0", "tensorflow"
    file.attrs["model_config"] = '{"class_name": "Functional", "config": {"layers": []}}'
    root, layers = file.create_group("model_weights"), _layers(tensors)
    root.attrs["layer_names"] = [name.encode() for name in ("input_1", *layers)]
    root.create_group("input_1").attrs["weight_names"] = np.array([])
    for layer, leaves in layers.items():
        group = root.create_group(layer)
        group.attrs["weight_names"] = [f"{layer}/{leaf}:0".encode() for leaf in leaves]
        for leaf, tensor in leaves.items():
            group.create_dataset(f"{layer}/{leaf}:0", data=tensor, **storage)
    file.create_group("optimizer_weights")["momentum"] = np.zeros(3)


_LEAVES1 = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}


def keras1(file: Any, tensors: Tensors, **storage: Any) -> None:
    """Weights alone: groups of layers with "layer_W"."""
    layers = _layers(tensors)
    file.attrs["layer_names"] = [name.encode() for name in layers]
    for layer, leaves in layers.items():
        group = file.create_group(layer)
        group.attrs["weight_names"] = [f"{layer}_{_LEAVES1.get(leaf, leaf)}".encode() for leaf in leaves]
        for leaf, tensor in leaves.items():
            group.create_dataset(f"{layer}_{_LEAVES1.get(leaf, leaf)}", data=tensor, **storage)


def keras3(file: Any, tensors: Tensors, **storage: Any) -> None:
    """Numbered variables in groups that are named for the layer's class."""
    for layer, leaves in _layers(tensors).items():
        group = file.create_group(f"layers/{layer}/vars")
        group.attrs["name"] = layer
        order = ("gamma", "beta", "moving_mean", "moving_variance", "kernel", "bias")
        for i, leaf in enumerate(sorted(leaves, key=order.index)):
            group.create_dataset(str(i), data=leaves[leaf], **storage)
    file.create_group("optimizer/vars")["0"] = np.zeros(())
