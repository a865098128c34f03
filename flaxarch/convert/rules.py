"""Rules: how a source names and lays out what a model of ours holds.

A table of rules names, for each leaf of the model, the one tensor that the source has for it. Import and
export are both read off that table, so they are inverse to each other; `strict.py` makes the import total.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Path = tuple[str, ...]  # collection, modules, leaf: ("params", "layer1_0", "conv1", "kernel")


class Layout(NamedTuple):
    """What a framework calls a layer's tensors, and in which order it keeps their axes."""

    separator: str  # between the names of nested modules
    names: Mapping[str, str]  # leaf -> tensor; a norm's leaves have the prefix "norm."
    axes: Mapping[int, tuple[int, ...]]  # number of axes of a kernel -> our axes in the source's order


TORCH = Layout(
    separator=".",
    names={
        "kernel": "weight",
        "bias": "bias",
        "norm.scale": "weight",
        "norm.bias": "bias",
        "norm.mean": "running_mean",
        "norm.var": "running_var",
    },
    axes={4: (3, 2, 0, 1), 2: (1, 0)},  # HWIO -> OIHW, grouped convolutions included; IO -> OI
)
KERAS = Layout(
    separator="/",
    names={
        "kernel": "kernel",
        "bias": "bias",
        "norm.scale": "gamma",
        "norm.bias": "beta",
        "norm.mean": "moving_mean",
        "norm.var": "moving_variance",
    },
    axes={4: (0, 1, 2, 3), 2: (0, 1)},
)


FLAXARCH = Layout(
    separator="/",
    names={name: name.removeprefix("norm.") for name in TORCH.names},
    axes={4: (0, 1, 2, 3), 2: (0, 1)},
)


class Rules(NamedTuple):
    """How one source names the tensors of one family.

    `modules` are substitutions, made in order, that turn our module's path, joined by "/", into the source's
    name of that module. `dropped` are patterns of tensors that have no counterpart here, by rule. `flattened`
    are patterns of our paths of convolutions over the whole map, such as VGG's fc6, which the source keeps as
    dense layers of the flattened map: (classes, C * H * W) in torch, (H * W * C, classes) in Keras.
    `pointwise` are patterns of our paths of dense layers, such as a head, which the source keeps as 1x1
    convolutions. `depthwise` are patterns of our paths of depthwise convolutions, whose kernels Keras keeps
    as (h, w, C, 1), where ours and torch's are those of any grouped convolution. `tensors` are substitutions,
    made in order, in the whole name of a tensor, for layers of the source that hold several modules of ours.
    """

    source: str
    layout: Layout
    modules: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = ()
    dropped: tuple[str, ...] = ()
    flattened: tuple[str, ...] = ()
    pointwise: tuple[str, ...] = ()
    depthwise: tuple[str, ...] = ()
    tensors: tuple[tuple[str, str], ...] = ()

    def drops(self, name: str) -> bool:
        """Whether a tensor has no counterpart here, by rule."""
        return any(re.fullmatch(pattern, name) for pattern in self.dropped)

    def module(self, path: str) -> str:
        """The source's name of the module at our `path`, which is joined by "/"."""
        for pattern, replacement in self.modules:
            path = re.sub(pattern, replacement, path)
        return path

    def tensor(self, module: str, leaf: str) -> str:
        """The source's name of a leaf, as "kernel" or "norm.mean", of the module at our path."""
        name = self.module(module) + self.layout.separator + self.layout.names[leaf]
        for pattern, replacement in self.tensors:
            name = re.sub(pattern, replacement, name)
        return name


class Slot(NamedTuple):
    """One leaf of the model, and the name, shape and axes of its tensor in the source."""

    path: Path
    shape: tuple[int, ...]
    name: str
    axes: tuple[int, ...]  # of ours, in the source's order
    flattened: bool = False  # the source has all axes but that of the outputs in one
    pointwise: bool = False  # the source has two more axes, of a 1x1 kernel

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the source."""
        shape = self._ordered_shape
        is_torch = self.axes[0] == len(shape) - 1  # outputs first
        if self.pointwise:
            return (*shape, 1, 1) if is_torch else (1, 1, *shape)
        if not self.flattened:
            return shape
        outputs = self.shape[-1]
        inputs = math.prod(shape) // outputs
        return (outputs, inputs) if is_torch else (inputs, outputs)

    @property
    def _ordered_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.axes)

    def in_source_order(self, tensor: np.ndarray) -> np.ndarray:
        """The source's tensor with our axes, one for each, in the source's order: a view."""
        return tensor.reshape(self._ordered_shape)

    def from_source(self, tensor: np.ndarray) -> np.ndarray:
        """The source's tensor with its axes in our order; a view."""
        return self.in_source_order(tensor).transpose(np.argsort(self.axes))

    def to_source(self, leaf: Any) -> np.ndarray:
        """Our leaf as the source holds it: a contiguous copy, which may be written to."""
        ordered = np.array(np.asarray(leaf).transpose(self.axes), order="C")
        return ordered.reshape(self.source_shape)


def slots(variables: Any, rules: Rules) -> Iterator[Slot]:
    """The slots of a tree {"params": ..., "batch_stats": ...} of arrays or shapes, in its order."""
    leaves = jax.tree.leaves_with_path(variables)
    paths = [(tuple(key.key for key in path), leaf) for path, leaf in leaves]
    norms = {path[1:-1] for path, _ in paths if path[0] == "batch_stats"}
    for path, leaf in paths:
        kind = "norm." if path[1:-1] in norms else ""
        axes = rules.layout.axes[len(leaf.shape)] if path[-1] == "kernel" else tuple(range(len(leaf.shape)))
        module = "/".join(path[1:-1])
        flattened, pointwise = (
            path[-1] == "kernel" and any(re.fullmatch(x, module) for x in patterns)
            for patterns in (rules.flattened, rules.pointwise)
        )
        if path[-1] == "kernel" and any(re.fullmatch(x, module) for x in rules.depthwise):
            axes = (0, 1, 3, 2)
        name = rules.tensor(module, kind + path[-1])
        yield Slot(path, tuple(leaf.shape), name, axes, flattened, pointwise)
