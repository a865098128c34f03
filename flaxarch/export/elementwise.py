"""JAX's operations of one element at a time as ONNX's. With an array, most are "Affine"."""

from collections.abc import Callable
from typing import Any

import numpy as np

from flaxarch.export.graph import Graph
from flaxarch.export.layout import NCHW, Tensor, aligned, held

Value = Tensor | np.ndarray  # what depends on the images, and what does not


def _unary(op: str) -> Callable[..., Tensor]:
    def add(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
        del params
        return _like(graph, results, x, graph.add(op, [x.name], graph.shapes[x.name]))

    return add


def _like(graph: Graph, results: Any, x: Tensor, name: str) -> Tensor:
    del graph
    return Tensor(name, results[0].aval.shape, x.order)


def _affine(graph: Graph, results: Any, x: Tensor, scale: np.ndarray, shift: np.ndarray) -> Tensor:
    """scale * x + shift, by arrays that are scalars or of x's rank."""
    shape = results[0].aval.shape
    scale, shift = (np.asarray(a, np.float64).transpose(x.order if a.ndim else ()) for a in (scale, shift))
    size = np.broadcast_shapes(scale.shape, shift.shape)
    own = graph.shapes[x.name]
    out = [b if _is_one(a) else a for a, b in zip(own, (size or (1,) * len(own)), strict=True)]
    return Tensor(graph.add("Affine", [x.name], out, {"scale": scale, "shift": shift}), shape, x.order)


def _is_one(n: Any) -> bool:
    return isinstance(n, int) and n == 1


def _both(graph: Graph, op: str, results: Any, x: Value, y: Value) -> Tensor:
    """An operation of two arrays, element by element."""
    shape = results[0].aval.shape
    sizes = [held(graph, a) if isinstance(a, Tensor) else a.shape for a in (x, y)]
    tensors = [a for a in (x, y) if isinstance(a, Tensor)]
    full = [a for a in tensors if held(graph, a) == a.shape] or tensors
    order = next((a.order for a in full if a.order == NCHW), full[0].order)
    names = []
    for a in (x, y):
        if isinstance(a, Tensor):
            names.append(aligned(graph, a, order).name)
        else:
            names.append(graph.constant(a.transpose(order) if a.ndim else a))
    size = [b if _is_one(a) else a for a, b in zip(*(s or (1,) * len(order) for s in sizes), strict=True)]
    return Tensor(graph.add(op, names, [size[axis] for axis in order]), shape, order)


def _add(graph: Graph, results: Any, params: Any, x: Value, y: Value) -> Tensor:
    del params
    one = np.ones(())
    if isinstance(y, np.ndarray) and isinstance(x, Tensor):
        return _affine(graph, results, x, one, y)
    if isinstance(x, np.ndarray) and isinstance(y, Tensor):
        return _affine(graph, results, y, one, x)
    return _both(graph, "Add", results, x, y)


def _sub(graph: Graph, results: Any, params: Any, x: Value, y: Value) -> Tensor:
    del params
    if isinstance(y, np.ndarray) and isinstance(x, Tensor):
        return _affine(graph, results, x, np.ones(()), -y)
    if isinstance(x, np.ndarray) and isinstance(y, Tensor):
        return _affine(graph, results, y, -np.ones(()), x)
    return _both(graph, "Sub", results, x, y)


def _mul(graph: Graph, results: Any, params: Any, x: Value, y: Value) -> Tensor:
    del params
    zero = np.zeros(())
    if isinstance(y, np.ndarray) and isinstance(x, Tensor):
        return _affine(graph, results, x, y, zero)
    if isinstance(x, np.ndarray) and isinstance(y, Tensor):
        return _affine(graph, results, y, x, zero)
    return _both(graph, "Mul", results, x, y)


def _div(graph: Graph, results: Any, params: Any, x: Value, y: Value) -> Tensor:
    del params
    if isinstance(y, np.ndarray) and isinstance(x, Tensor):
        return _affine(graph, results, x, 1 / np.asarray(y, np.float64), np.zeros(()))
    return _both(graph, "Div", results, x, y)


def _neg(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    del params
    return _affine(graph, results, x, -np.ones(()), np.zeros(()))


def _max(graph: Graph, results: Any, params: Any, x: Value, y: Value) -> Tensor:
    del params
    return _bounded(graph, "Max", "low", results, x, y)


def _min(graph: Graph, results: Any, params: Any, x: Value, y: Value) -> Tensor:
    del params
    return _bounded(graph, "Min", "high", results, x, y)


def _bounded(graph: Graph, op: str, bound: str, results: Any, x: Value, y: Value) -> Tensor:
    for a, b in ((x, y), (y, x)):
        if isinstance(a, Tensor) and isinstance(b, np.ndarray) and b.size == 1:
            bounds = {"low": None, "high": None, bound: float(b.reshape(()))}
            return _like(graph, results, a, graph.add("Clip", [a.name], graph.shapes[a.name], bounds))
    return _both(graph, op, results, x, y)


def _clamp(graph: Graph, results: Any, params: Any, low: Value, x: Value, high: Value) -> Tensor:
    return _min(graph, results, params, _max(graph, results, params, x, low), high)


def _pow(graph: Graph, results: Any, params: Any, x: Value, y: Value) -> Tensor:
    del params
    return _both(graph, "Pow", results, x, y)


def _integer_pow(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    if params["y"] == 2:
        return _both(graph, "Mul", results, x, x)
    return _both(graph, "Pow", results, x, np.array(params["y"], np.float32))


def _square(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    del params
    return _both(graph, "Mul", results, x, x)


def _rsqrt(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    root = _unary("Sqrt")(graph, results, params, x)
    return _unary("Reciprocal")(graph, results, params, root)


def _erfc(graph: Graph, results: Any, params: Any, x: Tensor) -> Tensor:
    y = _unary("Erf")(graph, results, params, x)
    return _affine(graph, results, y, -np.ones(()), np.ones(()))


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "max": _max,
    "min": _min,
    "clamp": _clamp,
    "pow": _pow,
    "integer_pow": _integer_pow,
    "square": _square,
    "rsqrt": _rsqrt,
    "erfc": _erfc,
    **{
        name: _unary(op)
        for name, op in {
            "abs": "Abs",
            "cos": "Cos",
            "erf": "Erf",
            "exp": "Exp",
            "log": "Log",
            "logistic": "Sigmoid",
            "sin": "Sin",
            "sqrt": "Sqrt",
            "tanh": "Tanh",
        }.items()
    },
}
