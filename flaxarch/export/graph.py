"""A graph of ONNX operations while it is built: nodes in order, constants and shapes by name.

Two operations are not ONNX's and last until `simplify` has seen them. "Affine": scale * x + shift, by NumPy
arrays of float64 that broadcast against x. "Clip" with bounds as attributes, None for no bound.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Shape = tuple[Any, ...]  # of numbers; the number of images may be a symbol


class CannotExport(ValueError):
    """A construct that has no form in the format asked for; the sentence names the operation."""


@dataclass
class Node:
    """One operation."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    name: str  # for people: where in the network it is

    @property
    def output(self) -> str:
        """The name of its only output."""
        (name,) = self.outputs
        return name


@dataclass
class Graph:
    """Nodes, each after those that it reads."""

    input: str = "images"
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    made: dict[str, Node] = field(default_factory=dict)  # by the names of its outputs, the node
    outputs: list[str] = field(default_factory=list)
    scope: str = ""  # of what is being added
    _taken: Counter[str] = field(default_factory=Counter)

    def add(
        self, op: str, inputs: Iterable[str], shape: Sequence[Any], attributes: dict[str, Any] | None = None
    ) -> str:
        """A node with one output of this shape; the output's name."""
        return self.add_several(op, inputs, [shape], attributes)[0]

    def add_several(
        self,
        op: str,
        inputs: Iterable[str],
        shapes: Iterable[Sequence[Any]],
        attributes: dict[str, Any] | None = None,
    ) -> list[str]:
        """A node with an output of each shape; their names."""
        name = self.unused(f"{self.scope}/{op}".lstrip("/"))
        outputs = []
        for i, shape in enumerate(shapes):
            outputs.append(f"{name}:{i}")
            self.shapes[outputs[-1]] = tuple(shape)
        self.nodes.append(Node(op, list(inputs), outputs, dict(attributes or {}), name))
        self.made |= dict.fromkeys(outputs, self.nodes[-1])
        return outputs

    def constant(self, value: np.ndarray, name: str = "constant") -> str:
        """An array of the file; the name under which nodes read it."""
        value = np.asarray(value)
        if value.dtype == np.float64:
            value = value.astype(np.float32)
        name = self.unused(name)
        self.constants[name], self.shapes[name] = np.asarray(value, order="C"), value.shape
        return name

    def unused(self, name: str) -> str:
        """The name, with a number behind it where it is taken."""
        self._taken[name] += 1
        return name if self._taken[name] == 1 else f"{name}_{self._taken[name]}"

    def num_uses(self) -> Counter[str]:
        """How often each name is read, by nodes and as an output of the whole."""
        return Counter([*(name for node in self.nodes for name in node.inputs), *self.outputs])

    def drop_unused(self) -> None:
        """Takes out what nothing reads."""
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]
        self.constants = {name: x for name, x in self.constants.items() if name in needed}
