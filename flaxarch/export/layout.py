"""Arrays whose axes lie in another order in memory than JAX numbers them, so that few are ever moved.

JAX's images are (N, H, W, C), ONNX's convolutions and pools read (N, C, H, W). A transposition of JAX's
changes `order` only; axes move where an operation needs them in an order that they are not in.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxarch.export.graph import Graph, Shape

NCHW = (0, 3, 1, 2)


class Tensor(NamedTuple):
    """An array of the graph.

    `order[i]` is the axis, as JAX counts, that lies at place i. The graph's shape of `name` is what is held:
    1 along axes over which the array is yet to be broadcast.
    """

    name: str
    shape: Shape  # as JAX has it
    order: tuple[int, ...]

    def placed(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """One value for each axis, in the order of their places."""
        return tuple(values[axis] for axis in self.order)

    def place(self, axis: int) -> int:
        """Where an axis lies."""
        return self.order.index(axis)


def held(graph: Graph, x: Tensor) -> Shape:
    """The shape that is held, by JAX's axes."""
    places = dict(zip(x.order, graph.shapes[x.name], strict=True))
    return tuple(places[axis] for axis in range(len(x.order)))


def preferred(shape: Shape, order: Sequence[int] | None = None) -> tuple[int, ...]:
    """An order of the axes for an array of that shape whose axes longer than 1 lie in `order`; None: anyhow.

    (N, C, H, W) for four axes and JAX's own for others, if these fit; axes of length 1 are free.
    """
    rank = len(shape)
    usual = [NCHW if rank == 4 else tuple(range(rank)), tuple(range(rank))]
    if order is None:
        return usual[0]
    long = [axis for axis in order if not _is_one(shape[axis])]
    for candidate in usual:
        if [axis for axis in candidate if not _is_one(shape[axis])] == long:
            return candidate
    for axis in range(rank):
        if axis not in long:  # behind the one ahead of it: `jnp.repeat` joins the two, made long
            long.insert(long.index(axis - 1) + 1 if axis else 0, axis)
    return tuple(long)


def aligned(graph: Graph, x: Tensor, order: Sequence[int]) -> Tensor:
    """`x` with its axes in `order`."""
    order = tuple(order)
    if x.order == order:
        return x
    sizes = held(graph, x)
    shape = tuple(sizes[axis] for axis in order)
    if preferred(sizes, x.order) == preferred(sizes, order):
        return Tensor(reshape_node(graph, x.name, shape), x.shape, order)
    places = [x.place(axis) for axis in order]
    return Tensor(graph.add("Transpose", [x.name], shape, {"perm": places}), x.shape, order)


def whole(graph: Graph, x: Tensor) -> Tensor:
    """`x` broadcast to its shape."""
    target, sizes = x.placed(x.shape), graph.shapes[x.name]
    if target == sizes:
        return x
    # A length of 1 keeps what is held: the number of images, where it is held
    lengths = [1 if size == wanted else wanted for size, wanted in zip(sizes, target, strict=True)]
    if all(isinstance(length, int) for length in lengths):
        shape = graph.constant(np.array(lengths, np.int64), "shape")
    else:
        count = graph.add("Shape", [graph.input], (1,), {"start": 0, "end": 1})
        parts = [
            graph.constant(np.array([n], np.int64), "length") if isinstance(n, int) else count
            for n in lengths
        ]
        shape = graph.add("Concat", parts, (len(parts),), {"axis": 0})
    return Tensor(graph.add("Expand", [x.name, shape], target), x.shape, x.order)


def reshaped(graph: Graph, x: Tensor, shape: Sequence[Any]) -> Tensor:
    """JAX's reshape: axes are split and joined, and moved only where joined ones do not lie together."""
    x, shape = whole(graph, x), tuple(shape)
    groups = _groups(x.shape, shape)
    places = {axis: i for i, axis in enumerate(a for a in x.order if not _is_one(x.shape[a]))}
    runs = [[places[axis] for axis in old if axis in places] for old, _ in groups]
    if not all(run == list(range(run[0], run[0] + len(run))) for run in runs if run):
        of_new = {axis: old for old, new in groups for axis in new}
        moved: dict[int, None] = {}
        for axis in (*preferred(shape), *range(len(shape))):
            moved |= dict.fromkeys(of_new.get(axis, ()))
        x = aligned(graph, x, [*moved, *(axis for axis in x.order if axis not in moved)])
        places = {axis: i for i, axis in enumerate(a for a in x.order if not _is_one(x.shape[a]))}
        runs = [[places[axis] for axis in old if axis in places] for old, _ in groups]
    in_place = sorted((run[0], new) for run, (_, new) in zip(runs, groups, strict=True) if run)
    order = preferred(shape, [axis for _, new in in_place for axis in new])
    return Tensor(reshape_node(graph, x.name, [shape[axis] for axis in order]), shape, order)


def reshape_node(graph: Graph, name: str, shape: Sequence[Any]) -> str:
    """The array in another shape; the number of images is found from the rest.

    Of two reshapes, one is left. A factor for the whole array comes behind them, where it may meet another:
    JAX's mean is a sum, reshaped, over a number.
    """
    made = graph.made.get(name)
    if made is not None and made.op == "Reshape":
        return reshape_node(graph, made.inputs[0], shape)
    if graph.shapes[name] == tuple(shape):
        return name
    if made is not None and made.op == "Affine" and not any(x.ndim for x in made.attributes.values()):
        inner = reshape_node(graph, made.inputs[0], shape)
        return graph.add("Affine", [inner], shape, made.attributes)
    lengths = [n if isinstance(n, int) else -1 for n in shape]
    return graph.add("Reshape", [name, graph.constant(np.array(lengths, np.int64), "shape")], shape)


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Axes of two shapes, in runs with as many elements; axes of length 1 are in none."""
    old_axes = [axis for axis, n in enumerate(old) if not _is_one(n)]
    new_axes = [axis for axis, n in enumerate(new) if not _is_one(n)]
    groups = []
    while old_axes or new_axes:
        a, b = old_axes[:1], new_axes[:1]
        while _size(old, a) != _size(new, b):
            sizes = _size(old, a), _size(new, b)
            if not all(isinstance(size, int) for size in sizes):  # images joined with other axes
                a, b = old_axes, new_axes
            elif sizes[0] < sizes[1]:
                a = old_axes[: len(a) + 1]
            else:
                b = new_axes[: len(b) + 1]
        groups.append((a, b))
        old_axes, new_axes = old_axes[len(a) :], new_axes[len(b) :]
    return groups


def _size(shape: Shape, axes: Sequence[int]) -> Any:
    return math.prod(shape[axis] for axis in axes)


def _is_one(length: Any) -> bool:
    return isinstance(length, int) and length == 1
