"""Convolutions, pools and padding as ONNX has them, over (N, C, H, W)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxarch.export.graph import CannotExport, Graph
from flaxarch.export.layout import NCHW, Tensor, aligned, reshape_node, whole


def add_conv(graph: Graph, results: Any, params: Any, x: Tensor, kernel: Tensor | np.ndarray) -> Tensor:
    """`conv_general_dilated`; one that sees the whole map at once is a matrix product."""
    if isinstance(kernel, Tensor):
        raise CannotExport("a convolution whose kernel depends on the images has no form in ONNX here")
    if any(d != 1 for d in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise CannotExport("a transposed convolution, 'lhs_dilation', has no form in ONNX here")
    numbers, shape = params["dimension_numbers"], results[0].aval.shape
    x = whole(graph, aligned(graph, x, numbers.lhs_spec))
    size = [shape[axis] for axis in numbers.out_spec]
    groups, pads = params["feature_group_count"], params["padding"]
    name, is_padded = x.name, any(n != 0 for pair in pads for n in pair)
    weight_name = f"{graph.scope}/weight"
    inputs, (features, inner, *window) = graph.shapes[name], (kernel.shape[a] for a in numbers.rhs_spec)
    if groups == 1 and not is_padded and tuple(window) == inputs[2:] and math.prod(window) > 1:
        count, length = size[0], inner * math.prod(window)
        matrix = kernel.transpose(*numbers.rhs_spec[1:], numbers.rhs_spec[0]).reshape(length, features)
        flat = reshape_node(graph, name, (count, length))
        y = graph.add("Gemm", [flat, graph.constant(matrix, weight_name)], (count, features))
        return Tensor(reshape_node(graph, y, size), shape, numbers.out_spec)
    if any(n < 0 for pair in pads for n in pair):
        name = padded(graph, name, [(0, 0), (0, 0), *pads], 0.0)
        pads = [(0, 0)] * len(pads)
    attributes = {
        "kernel_shape": window,
        "strides": list(params["window_strides"]),
        "pads": _pads(pads),
        "dilations": list(params["rhs_dilation"]),
        "group": groups,
    }
    kernel = kernel.transpose(numbers.rhs_spec)
    y = graph.add("Conv", [name, graph.constant(kernel, weight_name)], size, attributes)
    return Tensor(y, shape, numbers.out_spec)


def add_pool(graph: Graph, results: Any, params: Any, x: Tensor, *, op: str) -> Tensor:
    """`reduce_window_max`, and `reduce_window_sum` as a mean times the window's area, or over channels."""
    shape, x = results[0].aval.shape, whole(graph, x)
    window, strides, pads = (params[key] for key in ("window_dimensions", "window_strides", "padding"))
    dilations = params["window_dilation"]
    if len(shape) != 4 or any(d != 1 for d in params["base_dilation"]):
        raise CannotExport(f"a window over {len(shape)} axes has no form in ONNX here")
    x = aligned(graph, x, NCHW)
    if op == "sum" and window[:3] == (1, 1, 1) and all(s == 1 for s in strides):
        attributes = {"size": window[3], "before": pads[3][0]}
        return Tensor(graph.add("ChannelSum", [x.name], graph.shapes[x.name], attributes), shape, NCHW)
    if window[0] != 1 or window[3] != 1 or strides[0] != 1 or strides[3] != 1:
        raise CannotExport("a window over images or channels has no form in ONNX here")
    name, pads = x.name, pads[1:3]
    if any(n < 0 or n >= size for pair, size in zip(pads, window[1:3], strict=True) for n in pair):
        name = padded(graph, name, [(0, 0), (0, 0), *pads], -np.inf if op == "max" else 0.0)
        pads = [(0, 0), (0, 0)]
    attributes = {
        "kernel_shape": list(window[1:3]),
        "strides": list(strides[1:3]),
        "pads": _pads(pads),
    }
    size = [shape[axis] for axis in NCHW]
    if op == "max":
        attributes["dilations"] = list(dilations[1:3])
        return Tensor(graph.add("MaxPool", [name], size, attributes), shape, NCHW)
    if any(d != 1 for d in dilations):
        raise CannotExport("a sum over a window with holes has no form in ONNX here")
    mean = graph.add("AveragePool", [name], size, {**attributes, "count_include_pad": 1})
    area = {"scale": np.array(float(math.prod(window))), "shift": np.zeros(())}
    return Tensor(graph.add("Affine", [mean], size, area), shape, NCHW)


def padded(graph: Graph, name: str, pads: Sequence[tuple[int, int]], value: float) -> str:
    """An array with so many values before and behind it along each place; fewer than none are cut away."""
    shape = graph.shapes[name]
    cuts = [(place, pair) for place, pair in enumerate(pads) if min(pair) < 0]
    if cuts:
        starts = [max(-low, 0) for _, (low, _) in cuts]
        ends = [shape[place] - max(-high, 0) for place, (_, high) in cuts]
        places, steps = [place for place, _ in cuts], [1] * len(cuts)
        new = list(shape)
        for place, start, end in zip(places, starts, ends, strict=True):
            new[place] = end - start
        numbers = [graph.constant(np.array(v, np.int64), "ends") for v in (starts, ends, places, steps)]
        name, shape = graph.add("Slice", [name, *numbers], new), tuple(new)
    pads = [(max(low, 0), max(high, 0)) for low, high in pads]
    if not any(n for pair in pads for n in pair):
        return name
    new = [n + low + high if low or high else n for n, (low, high) in zip(shape, pads, strict=True)]
    inputs = [
        name,
        graph.constant(np.array(_pads(pads), np.int64), "pads"),
        graph.constant(np.array(value, np.float32), "value"),
    ]
    return graph.add("Pad", inputs, new, {"mode": "constant"})


def _pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """All that come before, then all that come behind."""
    return [low for low, _ in pads] + [high for _, high in pads]
