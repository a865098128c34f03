"""JAX's operations as ONNX's: a function for each primitive that networks here apply to images.

A function takes the graph, the primitive's results as JAX describes them, its parameters, and its inputs:
Tensors, or arrays where no image decides them; one at least is a Tensor.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from flaxarch.export.elementwise import ELEMENTWISE, Value
from flaxarch.export.graph import CannotExport, Graph
from flaxarch.export.layout import NCHW, Tensor, aligned, held, preferred, reshape_node, reshaped, whole
from flaxarch.export.windows import add_conv, add_pool, padded

IDENTITIES = frozenset({"name", "copy", "copy_p", "stop_gradient", "optimization_barrier"})


def _reshape(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    if params.get("dimensions") is not None:
        raise CannotExport("a 'reshape' in another order than row by row has no form in ONNX here")
    return reshaped(graph, x, results[0].aval.shape)


def _squeeze(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    del params
    return reshaped(graph, x, results[0].aval.shape)


def _transpose(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    """The axes stay where they are, and get other numbers."""
    del graph
    new = {old: i for i, old in enumerate(params["permutation"])}
    return Tensor(x.name, results[0].aval.shape, tuple(new[axis] for axis in x.order))


def _broadcast(graph: Graph, results: Any, params: Any, x: Value, *dynamic: Any) -> Tensor:
    """New axes of length 1; `whole` or an operation makes them longer."""
    del dynamic
    shape, axes = results[0].aval.shape, params["broadcast_dimensions"]
    if isinstance(x, np.ndarray):
        x = Tensor(graph.constant(x), x.shape, tuple(range(x.ndim)))
    sizes = held(graph, x)
    own = [1] * len(shape)
    for axis, size in zip(axes, sizes, strict=True):
        own[axis] = size
    order = preferred(tuple(own), [axes[axis] for axis in x.order])
    return Tensor(reshape_node(graph, x.name, [own[axis] for axis in order]), shape, order)


def _concatenate(graph: Graph, results: Any, params: Any, *inputs: Value) -> Tensor:
    shape, axis = results[0].aval.shape, params["dimension"]
    orders = [x.order for x in inputs if isinstance(x, Tensor)]
    order = NCHW if NCHW in orders else orders[0]
    names = [
        whole(graph, aligned(graph, x, order)).name
        if isinstance(x, Tensor)
        else graph.constant(x.transpose(order))
        for x in inputs
    ]
    name = graph.add("Concat", names, [shape[a] for a in order], {"axis": order.index(axis)})
    return Tensor(name, shape, order)


def _split(graph: Graph, results: Any, params: Any, x: Tensor) -> list[Tensor]:
    x, place = whole(graph, x), x.place(params["axis"])
    shapes = [result.aval.shape for result in results]
    sizes = graph.constant(np.array(params["sizes"], np.int64), "sizes")
    names = graph.add_several("Split", [x.name, sizes], map(x.placed, shapes), {"axis": place})
    return [Tensor(name, shape, x.order) for name, shape in zip(names, shapes, strict=True)]


def _slice(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    starts, limits = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(starts)
    return _sliced(graph, results[0].aval.shape, x, starts, limits, steps)


def _sliced(
    graph: Graph,
    shape: Sequence[Any],
    x: Tensor,
    starts: Sequence[Any],
    ends: Sequence[Any],
    steps: Sequence[int],
) -> Tensor:
    """From a start to an end along each axis; `shape` is what comes out."""
    x, shape = whole(graph, x), tuple(shape)
    cut = [
        axis
        for axis, (start, end, step) in enumerate(zip(starts, ends, steps, strict=True))
        if start != 0 or end != x.shape[axis] or step != 1
    ]
    if not cut:
        return x
    numbers = [[v[axis] for axis in cut] for v in (starts, ends)]
    numbers += [[x.place(axis) for axis in cut], [steps[axis] for axis in cut]]
    names = [
        graph.constant(np.array(v, np.int64), name)
        for v, name in zip(numbers, ("starts", "ends", "axes", "steps"), strict=True)
    ]
    return Tensor(graph.add("Slice", [x.name, *names], x.placed(shape)), shape, x.order)


def _rev(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    axes = params["dimensions"]
    rank, lowest = len(x.shape), np.iinfo(np.int64).min
    starts = [-1 if axis in axes else 0 for axis in range(rank)]
    ends = [lowest if axis in axes else x.shape[axis] for axis in range(rank)]
    steps = [-1 if axis in axes else 1 for axis in range(rank)]
    return _sliced(graph, results[0].aval.shape, x, starts, ends, steps)


def _pad(graph: Graph, results: Any, params: Any, x: Tensor, value: Value) -> Tensor:
    if isinstance(value, Tensor) or any(inner for *_, inner in params["padding_config"]):
        raise CannotExport("a 'pad' between an array's elements has no form in ONNX here")
    x = whole(graph, x)
    pads = x.placed([(low, high) for low, high, _ in params["padding_config"]])
    return Tensor(padded(graph, x.name, pads, float(value)), results[0].aval.shape, x.order)


def _reduce_sum(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    x, axes = whole(graph, x), params["axes"]
    if tuple(axes) == (1, 2) and len(x.shape) == 4:
        x = aligned(graph, x, NCHW)
        n, height, width, channels = x.shape
        if height == width == 1:
            return Tensor(reshape_node(graph, x.name, (n, channels)), (n, channels), (0, 1))
        mean = graph.add("GlobalAveragePool", [x.name], (n, channels, 1, 1))
        area = {"scale": np.array(float(height * width)), "shift": np.zeros(())}
        total = graph.add("Affine", [mean], (n, channels, 1, 1), area)
        return Tensor(reshape_node(graph, total, (n, channels)), (n, channels), (0, 1))
    places = graph.constant(np.array([x.place(axis) for axis in axes], np.int64), "axes")
    return _reduced(graph, results, x, axes, "ReduceSum", [places], {})


def _reduce_max(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    x, axes = whole(graph, x), params["axes"]
    return _reduced(graph, results, x, axes, "ReduceMax", [], {"axes": [x.place(axis) for axis in axes]})


def _reduced(
    graph: Graph, results: Any, x: Tensor, axes: Any, op: str, inputs: list[str], attributes: dict[str, Any]
) -> Tensor:
    shape, left = results[0].aval.shape, [axis for axis in range(len(x.shape)) if axis not in axes]
    order = tuple(left.index(axis) for axis in x.order if axis in left)
    name = graph.add(op, [x.name, *inputs], [shape[axis] for axis in order], {**attributes, "keepdims": 0})
    return Tensor(name, shape, order)


def _dot_general(graph: Graph, results: Any, params: Any, x: Value, y: Value) -> Tensor:
    """A matrix product with an array: "Gemm", a 1x1 convolution over channels, or "MatMul" over H or W."""
    ((x_axes, y_axes), (batch, _)), shape = params["dimension_numbers"], results[0].aval.shape
    if batch or isinstance(x, Tensor) == isinstance(y, Tensor):
        raise CannotExport("a 'dot_general' of two arrays that depend on the images")
    if swapped := isinstance(y, Tensor):
        x, y, x_axes, y_axes = y, x, y_axes, x_axes
    assert isinstance(x, Tensor)
    assert isinstance(y, np.ndarray)
    if len(x_axes) > 1:  # over all of them as one
        left = [a for a in x.order if a not in x_axes]
        x = aligned(graph, whole(graph, x), (*left, *x_axes))
        length = math.prod(x.shape[a] for a in x_axes)
        size = (*(x.shape[a] for a in left), length)
        y = np.moveaxis(y, y_axes, range(len(y_axes)))
        y = y.reshape(length, *y.shape[len(y_axes) :])
        kept = sorted(left)
        order = (*(kept.index(a) for a in left), len(left))
        logical = (*(x.shape[a] for a in kept), length)
        x = Tensor(reshape_node(graph, x.name, size), logical, order)
        x_axes, y_axes = (len(left),), (0,)
    (axis,), matrix = x_axes, np.moveaxis(y, y_axes[0], 0)
    x, rest = whole(graph, x), matrix.shape[1:]
    matrix = matrix.reshape(len(matrix), -1)
    left, features = [a for a in range(len(x.shape)) if a != axis], matrix.shape[1]
    if len(x.shape) == 2:
        x = aligned(graph, x, (*left, axis))
        weight = graph.constant(matrix, f"{graph.scope}/weight")
        name, places = graph.add("Gemm", [x.name, weight], (x.shape[left[0]], features)), [*left, axis]
    elif len(x.shape) == 4 and axis == 3:
        x = aligned(graph, x, NCHW)
        weight = graph.constant(matrix.T[:, :, None, None], f"{graph.scope}/weight")
        size = (x.shape[0], features, *x.shape[1:3])
        name, places = graph.add("Conv", [x.name, weight], size, {"kernel_shape": [1, 1]}), list(NCHW)
    else:
        if x.order[-1] != axis and x.order[-2] != axis:
            x = aligned(graph, x, (*left, axis))
        size = [features if a == axis else x.shape[a] for a in x.order]
        is_last = x.order[-1] == axis
        weight = graph.constant(matrix if is_last else matrix.T, f"{graph.scope}/weight")
        name = graph.add("MatMul", [x.name, weight] if is_last else [weight, x.name], size)
        places = list(x.order)
    # The axis that was summed over stands for the matrix's others, which come last in the result, or first.
    first = 0 if swapped else len(left)
    numbers = {a: i + (len(rest) if swapped else 0) for i, a in enumerate(left)}
    order, size = [], []
    for a in places:
        order += range(first, first + len(rest)) if a == axis else [numbers[a]]
    size = [shape[a] for a in order]
    return Tensor(reshape_node(graph, name, size), shape, tuple(order))


def _gather(graph: Graph, results: Any, params: Any, x: Value, places: Value) -> Tensor:
    """Chosen places along one axis, or one window: indexing, where the number of images is a symbol."""
    numbers, shape = params["dimension_numbers"], results[0].aval.shape
    axes, sizes = numbers.start_index_map, params["slice_sizes"]
    if isinstance(places, Tensor) or not isinstance(x, Tensor) or numbers.operand_batching_dims:
        raise CannotExport("a 'gather' at places that depend on the images has no form in ONNX here")
    x = whole(graph, x)
    if places.ndim == 1:
        starts, window = [0] * len(x.shape), [*sizes]
        for axis, start in zip(axes, places.tolist(), strict=True):
            starts[axis] = max(0, min(start, x.shape[axis] - sizes[axis]))
        ends = [start + size for start, size in zip(starts, window, strict=True)]
        return reshaped(graph, _sliced(graph, window, x, starts, ends, [1] * len(window)), shape)
    if len(axes) != 1 or numbers.collapsed_slice_dims != axes or places.ndim != 2:
        raise CannotExport("a 'gather' at places along several axes has no form in ONNX here")
    (axis,) = axes
    (new,) = (a for a in range(len(shape)) if a not in numbers.offset_dims)
    kept = dict(zip((a for a in range(len(x.shape)) if a != axis), numbers.offset_dims, strict=True))
    order = tuple(new if a == axis else kept[a] for a in x.order)
    chosen = np.clip(places[:, 0], 0, x.shape[axis] - 1).astype(np.int64)
    inputs = [x.name, graph.constant(chosen, "places")]
    name = graph.add("Gather", inputs, [shape[a] for a in order], {"axis": x.place(axis)})
    return Tensor(name, shape, order)


def _convert(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    del graph
    if params["new_dtype"] != np.float32:
        raise CannotExport(f"a computation in {params['new_dtype']}: ONNX files here compute in float32")
    return Tensor(x.name, results[0].aval.shape, x.order)


def _pool(op: str) -> Callable[..., Tensor]:
    return partial(add_pool, op=op)


OPERATIONS: dict[str, Callable[..., Any]] = {
    **ELEMENTWISE,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "expand_dims": _squeeze,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "split": _split,
    "slice": _slice,
    "rev": _rev,
    "pad": _pad,
    "gather": _gather,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "reduce_window_sum": _pool("sum"),
    "reduce_window_max": _pool("max"),
    "conv_general_dilated": add_conv,
    "dot_general": _dot_general,
    "convert_element_type": _convert,
}
