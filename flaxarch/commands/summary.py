"""`flaxarch summary`: a network as a tree of modules, with what each gives, costs and sees."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro

import flaxarch
from flaxarch.commands.base import Column, Command, UsageError, print_json, print_table, stdout, times

if TYPE_CHECKING:
    from flaxarch.analysis import LayerCost
    from flaxarch.layers import Network
    from flaxarch.variant import Variant


@dataclass(frozen=True)
class Summary(Command):
    """Shows a network: its modules, with output, parameters, multiply-accumulates and receptive field.

    All of one image. A receptive field, in the column "sees", is in pixels of the image, and may extend over
    its borders.
    """

    name: tyro.conf.Positional[str]
    """The network, one of those that `flaxarch list` shows."""
    input_shape: tuple[int, int, int] | None = None
    """Height, width and channels of the image; None: the row's own."""
    depth: int = 1
    """Levels of the tree to show; 0: all."""
    num_classes: int | None = None
    """Classes of the head; None: the row's own."""

    def run(self) -> int:
        """Prints the tree, the totals and the preprocessing."""
        if self.depth < 0:
            raise UsageError(f"--depth is {self.depth}: it has to be at least 0")
        row = flaxarch.published(self.name)
        shape = self.input_shape or row.input_shape
        try:
            model = flaxarch.create(self.name, num_classes=self.num_classes)
            total = flaxarch.cost(model, shape)
        except ValueError as error:
            raise UsageError(f"{error}") from error
        tree = _nodes(total.layers, (), _calls(model, shape))
        depth = self.depth or math.inf
        if self.json:
            document = {
                "name": self.name,
                "source": row.source,
                "input_shape": shape,
                "num_classes": model.num_classes,
                "num_params": total.num_params,
                "num_batch_stats": total.num_batch_stats,
                "macs": total.macs,
                "activation_bytes": total.activation_bytes,
                "preprocessing": {key: getattr(row, key) for key in _PREPROCESSING},
                "modules": [_document(node, depth) for node in tree],
            }
            print_json(document)
            return 0
        numbers = (Column(title, True) for title in ("output", "params", "MACs", "sees"))
        print_table((Column("module"), Column("kind"), *numbers), _lines(tree, depth))
        stdout().print(
            f"\n{total.num_params:,} parameters, {total.num_batch_stats:,} batch statistics, "
            f"{total.macs:,} MACs, {total.activation_bytes / 2**20:.1f} MiB of activations "
            f"for an image of {times(shape)}\nsource: {row.source}\npictures: {_words(row)}"
        )
        return 0


_PREPROCESSING = ("input_shape", "resize", "interpolation", "mean", "std", "channels")


class _Node(NamedTuple):
    """A module, or one pooling in a module."""

    name: str
    kind: str  # class of the module, or kind of the layer
    output_shape: tuple[int, ...]  # () where evaluation does not run it
    layers: "list[LayerCost]"
    children: "list[_Node]"

    @property
    def num_params(self) -> int:
        return sum(layer.num_params for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def receptive_field(self) -> tuple[int, int]:
        """Of the unit that sees most."""
        return max((layer.receptive_field for layer in self.layers), key=math.prod)


Calls = dict[tuple[str, ...], tuple[str, tuple[int, ...]]]  # path -> class of the module, shape of its output


def _calls(model: "Network", input_shape: Sequence[int]) -> Calls:
    """The modules that evaluation runs: a block's output is no single layer's, where it joins branches."""
    import jax
    from flax import linen as nn

    calls: Calls = {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            shape = output.shape[1:] if isinstance(output, jax.Array) else ()
            calls[context.module.path] = type(context.module).__name__, shape
        return output

    images = jax.ShapeDtypeStruct((1, *input_shape), "float32")
    with nn.intercept_methods(note):
        jax.eval_shape(partial(model.init_with_output, train=False), jax.random.key(0), images)
    return calls


def _nodes(layers: "Sequence[LayerCost]", path: tuple[str, ...], calls: Calls) -> list[_Node]:
    """The modules directly in the one at `path`, and its own poolings, in order of execution."""
    modules: dict[str, list[LayerCost]] = {}
    nodes: list[_Node] = []
    for layer in layers:
        inner = layer.path.split("/")[len(path) :] if layer.path else []
        if inner:
            modules.setdefault(inner[0], []).append(layer)
            if len(modules[inner[0]]) == 1:
                nodes.append(_Node(inner[0], "", (), modules[inner[0]], []))
        else:
            nodes.append(_Node("", layer.kind, layer.output_shape, [layer], []))
    return [_filled(node, (*path, node.name), calls) if node.name else node for node in nodes]


def _filled(node: _Node, path: tuple[str, ...], calls: Calls) -> _Node:
    """With what is known once all layers of a module are in it."""
    kind, shape = calls.get(path, ("", ()))
    children = _nodes(node.layers, path, calls)
    outputs = [layer.output_shape for layer in node.layers if layer.output_shape]
    shape = (shape or outputs[-1]) if outputs else ()
    if any(child.name for child in children) or len(children) > 1:
        kind = kind if outputs else f"{kind}, training only".lstrip(", ")
        return node._replace(kind=kind, output_shape=shape, children=children)
    return node._replace(kind=node.layers[0].kind, output_shape=shape)


def _lines(nodes: list[_Node], depth: float, stem: str | None = None) -> Iterator[tuple[str, ...]]:
    """The cells of the tree's lines; `stem` is what stands before the branches of this level."""
    for i, node in enumerate(nodes):
        is_last = i == len(nodes) - 1
        branch = "" if stem is None else f"{stem}{'└' if is_last else '├'} "
        output, sees = times(node.output_shape), times(node.receptive_field) if node.output_shape else ""
        yield f"{branch}{node.name}", node.kind, output, f"{node.num_params:,}", f"{node.macs:,}", sees
        if depth > 1:
            inner = "" if stem is None else f"{stem}{' ' if is_last else '│'} "
            yield from _lines(node.children, depth - 1, inner)


def _document(node: _Node, depth: float) -> dict[str, Any]:
    document = {
        "name": node.name,
        "kind": node.kind,
        "output_shape": node.output_shape or None,
        "num_params": node.num_params,
        "macs": node.macs,
        "receptive_field": node.receptive_field if node.output_shape else None,
    }
    if node.children and depth > 1:
        document["modules"] = [_document(child, depth - 1) for child in node.children]
    return document


def _words(row: "Variant") -> str:
    """The preprocessing in one sentence."""
    height, width, _ = row.input_shape
    resized = (
        f"stretched to {height}x{width}"
        if row.resize is None
        else f"shorter side to {row.resize}, the middle {height}x{width} cut out"
    )
    mean, std = (", ".join(f"{x:.4g}" for x in values) for values in (row.mean, row.std))
    channels = row.channels if len(row.mean) == 3 else "grey"
    return f"{resized} ({row.interpolation}); {channels} from 0 to 1, less ({mean}), over ({std})"
