"""From what JAX wrote to what ONNX has a word for: batch norms into convolutions, activations as one node.

A rule looks at a node and at those that it reads, and changes the node where it knows a shorter way. Rules
run over the graph from the images on, so that what a node reads is as short as it gets.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxarch.export.graph import CannotExport, Graph, Node

Rule = Callable[["Reader", Node], bool]  # whether it changed the node

_ROUNDING = 1e-7  # of float32: a factor as near to one as this is one


def simplify(graph: Graph) -> None:
    """Makes all of it ONNX's, with as few nodes as the rules know how to."""
    _run(graph, [_joined_affines, _joined_clips, _without_padding, _hard_sigmoid, _hard_swish])
    _run(graph, [_joined_affines, _local_response_norm, _pixel_shuffle, _into_kernel])
    for node in graph.nodes:
        _in_words_of_onnx(graph, node)
    graph.nodes = [part for node in graph.nodes for part in _parts(graph, node)]
    graph.drop_unused()


class Reader:
    """Who makes what a node reads."""

    def __init__(self, graph: Graph) -> None:
        graph.drop_unused()
        self.graph = graph
        self.uses: Counter[str] = graph.num_uses()

    def before(self, node: Node, op: str, i: int = 0) -> Node | None:
        """The node that input `i` is from, if it is an `op` that nothing else reads."""
        name = node.inputs[i]
        found = self.graph.made.get(name)
        return found if found is not None and found.op == op and self.uses[name] == 1 else None


def _run(graph: Graph, rules: Sequence[Rule]) -> None:
    reader, others = Reader(graph), dict[str, str]()
    for node in graph.nodes:
        node.inputs = [others.get(name, name) for name in node.inputs]
        while any(rule(reader, node) for rule in rules):
            pass
        if node.op == "Affine" and _is_nothing(node):
            others[node.output] = node.inputs[0]
            reader.uses[node.inputs[0]] += reader.uses[node.output] - 1
    graph.outputs = [others.get(name, name) for name in graph.outputs]
    graph.drop_unused()


def _is_nothing(node: Node) -> bool:
    scale, shift = node.attributes["scale"], node.attributes["shift"]
    return bool(np.all(np.abs(scale - 1) < _ROUNDING) and not np.any(shift))


def _joined_affines(reader: Reader, node: Node) -> bool:
    """b (a x + c) + d = (a b) x + (b c + d)."""
    if node.op != "Affine" or (inner := reader.before(node, "Affine")) is None:
        return False
    scale, shift = node.attributes["scale"], node.attributes["shift"]
    first, second = inner.attributes["scale"], inner.attributes["shift"]
    node.attributes = {"scale": scale * first, "shift": scale * second + shift}
    node.inputs = inner.inputs
    return True


def _joined_clips(reader: Reader, node: Node) -> bool:
    """min(max(x, 0), 6): ReLU6."""
    if node.op != "Clip" or (inner := reader.before(node, "Clip")) is None:
        return False
    low, high = inner.attributes["low"], inner.attributes["high"]
    if high is not None or node.attributes["low"] is not None:
        return False
    node.attributes, node.inputs = {"low": low, "high": node.attributes["high"]}, inner.inputs
    return True


def _hard_sigmoid(reader: Reader, node: Node) -> bool:
    """clip(a x + c, 0, h) / h."""
    if node.op != "Affine" or (clip := reader.before(node, "Clip")) is None:
        return False
    if (inner := reader.before(clip, "Affine")) is None:
        return False
    scale, shift = node.attributes.values()
    high = clip.attributes["high"]
    if scale.ndim or np.any(shift) or high is None or clip.attributes["low"] != 0:
        return False
    if abs(float(scale) * high - 1) > _ROUNDING:
        return False
    first, second = inner.attributes.values()
    node.op, node.attributes = "HardSigmoid", {"alpha": float(scale), "beta": 0.5}
    if first.ndim or second.ndim:  # a batch norm or a bias before it
        inner.attributes["shift"] = second - high / 2
        node.inputs = [inner.output]
    else:
        node.attributes = {"alpha": float(scale * first), "beta": float(scale * second)}
        node.inputs = inner.inputs
    return True


def _hard_swish(reader: Reader, node: Node) -> bool:
    """x * HardSigmoid(x) with the slope 1/6."""
    if node.op != "Mul":
        return False
    for i in (0, 1):
        gate = reader.before(node, "HardSigmoid", i)
        if gate is None or gate.inputs[0] != node.inputs[1 - i]:
            continue
        slope, middle = gate.attributes["alpha"], gate.attributes["beta"]
        if abs(6 * slope - 1) < _ROUNDING and abs(2 * middle - 1) < _ROUNDING:
            reader.uses[gate.inputs[0]] -= 1
            node.op, node.inputs, node.attributes = "HardSwish", gate.inputs, {}
            return True
    return False


def _without_padding(reader: Reader, node: Node) -> bool:
    """A sum over a window divided by how many pixels of the image it sees."""
    if node.op != "Affine" or (pool := reader.before(node, "AveragePool")) is None:
        return False
    scale = node.attributes["scale"]
    if scale.ndim != 4 or scale.shape[:2] != (1, 1) or not pool.attributes["count_include_pad"]:
        return False
    ones, window = np.ones(reader.graph.shapes[pool.inputs[0]][2:]), pool.attributes["kernel_shape"]
    pads, strides = pool.attributes["pads"], pool.attributes["strides"]
    seen = np.pad(ones, ((pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(seen, window)[:: strides[0], :: strides[1]]
    if not np.allclose(scale[0, 0], math.prod(window) / windows.sum((2, 3)), rtol=1e-6):
        return False
    pool.attributes["count_include_pad"] = 0
    node.attributes["scale"] = np.ones(())
    return True


def _local_response_norm(reader: Reader, node: Node) -> bool:
    """x * (k + alpha * sum of squares over neighbouring channels)^-beta."""
    if node.op != "Mul":
        return False
    for i in (0, 1):
        x, power = node.inputs[1 - i], reader.before(node, "Pow", i)
        inner = power and reader.before(power, "Affine")
        total = inner and reader.before(inner, "ChannelSum")
        square = total and reader.before(total, "Mul")
        if not (power and inner and total and square) or square.inputs != [x, x]:
            continue
        exponent = reader.graph.constants.get(power.inputs[1])
        size, before = total.attributes["size"], total.attributes["before"]
        scale, shift = inner.attributes["scale"], inner.attributes["shift"]
        if exponent is None or exponent.ndim or scale.ndim or shift.ndim or before != (size - 1) // 2:
            continue
        alpha = float(scale) * size  # ONNX divides it by the window's size
        reader.uses[x] -= 2
        node.op, node.inputs = "LRN", [x]
        node.attributes = {"alpha": alpha, "beta": -float(exponent), "bias": float(shift), "size": size}
        return True
    return False


def _pixel_shuffle(reader: Reader, node: Node) -> bool:
    """Channels that become pixels, as after a U-Net's up-convolution."""
    if node.op != "Reshape" or (moved := reader.before(node, "Transpose")) is None:
        return False
    first, shapes = reader.before(moved, "Reshape"), reader.graph.shapes
    if first is None or moved.attributes["perm"] != [0, 3, 4, 1, 5, 2]:
        return False
    inside, outside = shapes[first.output], shapes[node.output]
    _, a, b, features, height, width = inside
    joined = outside[1:] == (features, height * a, width * b)
    if a != b or not joined or shapes[first.inputs[0]][1:] != (a * b * features, height, width):
        return False
    node.op, node.inputs = "DepthToSpace", first.inputs[:1]
    node.attributes = {"blocksize": a, "mode": "DCR"}
    return True


def _into_kernel(reader: Reader, node: Node) -> bool:
    """Batch norm after a convolution, and the bias of a dense layer."""
    if node.op != "Affine" or _is_nothing(node):
        return False
    graph = reader.graph
    layer = reader.before(node, "Conv") or reader.before(node, "Gemm")
    if layer is None and (made := reader.before(node, "Reshape")) is not None:
        layer = reader.before(made, "Gemm")  # a convolution over the whole map: (N, C) is (N, C, 1, 1)
        if graph.shapes[made.output] != (*graph.shapes[made.inputs[0]], 1, 1):
            return False
    if layer is None:
        return False
    shape = graph.shapes[node.inputs[0]]
    numbers = [_per_channel(x, len(shape), shape[1]) for x in node.attributes.values()]
    if any(x is None for x in numbers):
        return False
    scale, shift = numbers
    name, bias = layer.inputs[1], 0.0
    if np.any(scale != 1):
        kernel = graph.constants[name].astype(np.float64)
        kernel *= scale.reshape((1, -1) if layer.op == "Gemm" else (-1, 1, 1, 1))
        layer.inputs[1] = graph.constant(kernel, name)
    if len(layer.inputs) > 2:
        bias = graph.constants[layer.inputs[2]].astype(np.float64)
    bias = scale * bias + shift
    if np.any(bias):
        layer.inputs[2:] = [graph.constant(bias, name.replace("weight", "bias"))]
    node.attributes = {"scale": np.ones(()), "shift": np.zeros(())}
    return True


def _per_channel(x: np.ndarray, rank: int, channels: int) -> Any:
    """The numbers of the channels, at place 1; None where places beside differ."""
    if x.ndim == 0:
        return np.broadcast_to(x, channels)
    is_other = x.ndim != rank or x.size != x.shape[1]
    return None if is_other else np.broadcast_to(x.reshape(-1), channels)


def _in_words_of_onnx(graph: Graph, node: Node) -> None:
    """A bounded value, or a sum over channels, as operations of ONNX."""
    if node.op == "Clip":
        low, high = node.attributes["low"], node.attributes["high"]
        node.attributes = {}
        if (low, high) == (0, None):
            node.op = "Relu"
            return
        bounds = [(low, "low"), (high, "high")]
        node.inputs += [
            "" if x is None else graph.constant(np.array(x, np.float32), name) for x, name in bounds
        ]
        node.inputs = node.inputs[:2] if high is None else node.inputs
    elif node.op == "ChannelSum":
        raise CannotExport(
            "a sum over neighbouring channels, but of local response normalisation, has no form in ONNX here"
        )


def _parts(graph: Graph, node: Node) -> list[Node]:
    """An Affine that stayed one: batch norm of a map, or a product and a sum."""
    if node.op != "Affine":
        return [node]
    (x,), y, scope = node.inputs, node.output, node.name.removesuffix("Affine")
    scale, shift = node.attributes["scale"], node.attributes["shift"]
    rank, shape = len(graph.shapes[x]), graph.shapes[x]
    is_map = rank > 2 and shape == graph.shapes[y] and scale.ndim > 0 and bool(np.any(shift))
    numbers = [_per_channel(a, rank, shape[1]) if is_map else None for a in (scale, shift)]
    if not any(a is None for a in numbers):
        zero, one = (np.full(shape[1], a, np.float32) for a in (0, 1))
        names = [
            graph.constant(np.asarray(a, np.float32), scope + name)
            for a, name in zip([*numbers, zero, one], ("scale", "bias", "mean", "var"), strict=True)
        ]
        return [Node("BatchNormalization", [x, *names], [y], {"epsilon": 0.0}, node.name)]
    parts = []
    for op, a, nothing in (("Mul", scale, 1.0), ("Add", shift, 0.0)):
        if np.all(a == nothing) and not (op == "Add" and not parts):
            continue
        name = graph.unused(scope + op)
        parts.append(Node(op, [x, graph.constant(a, f"{scope}{op.lower()}")], [f"{name}:0"], {}, name))
        graph.shapes[f"{name}:0"] = graph.shapes[y]
        x = f"{name}:0"
    parts[-1].outputs = [y]
    return parts
