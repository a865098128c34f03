"""What a module does to an image's features, as a graph: read from the jaxpr of its evaluation.

A convolution, a norm, an activation, a pool, a sum is a node, whichever way the code writes it; what only
moves numbers about is none. So a picture of a block is of the block that runs.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Network
from flaxarch.models.ode_fields import Bias, TvNorm
from flaxarch.ops import use_native_forms

Path = tuple[str, ...]

# By the name of the jitted function that computes it, or of the primitive
ACTIVATIONS = {
    "relu": "ReLU",
    "relu6": "ReLU6",
    "hard_sigmoid": "hard sigmoid",
    "hard_silu": "hard swish",
    "hard_swish": "hard swish",
    "silu": "swish",
    "gelu": "GELU",
    "sigmoid": "sigmoid",
    "logistic": "sigmoid",
    "tanh": "tanh",
}
# Modules that are one node, whatever equations they consist of
_LAYERS: dict[type[nn.Module], str] = {
    nn.Conv: "conv",
    nn.Dense: "dense",
    nn.BatchNorm: "batch norm",
    Bias: "bias",
    TvNorm: "TV norm",
}
_SILENT = {"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type", "name", "copy"}
_SIGNS = {"add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "/", "max": "max"}
_LRN = "local response norm"


@dataclass
class Node:
    """Something that is done to features."""

    kind: str  # "input", "conv", "dense", "norm", "act", "pool", "scale", "sum", "join", "part", "output"
    title: str
    inputs: list[int]
    details: list[str] = field(default_factory=list)
    shape: tuple[int, ...] = ()  # (H, W, C) or (C,) of one image, of what comes out
    is_done: bool = False  # of one that takes in equations: there are no more


class Unknown(ValueError):
    """An equation that has no picture."""


def blocks_of(
    model: Network, paths: Sequence[str], input_shape: Sequence[int]
) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """The modules at paths such as "layer1_0" of a network for images (H, W, C), and their inputs' shapes.

    The network is traced up to the last of them only. The empty path is the network itself.
    """
    found: dict[str, tuple[nn.Module, tuple[int, ...]]] = {"": (model, (1, *input_shape))}

    class FoundAll(Exception):
        pass

    def call(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if path in paths and context.method_name == "__call__":
            found[path] = context.module.clone(parent=None, name=None), args[0].shape
            if found.keys() >= set(paths):
                raise FoundAll
        return method(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with contextlib.suppress(FoundAll), nn.intercept_methods(call):
        if found.keys() < set(paths) | {""}:
            jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    if missing := set(paths) - found.keys():
        raise ValueError(f"this {type(model).__name__} has no module {', '.join(sorted(missing))}")
    return found


def graph(module: nn.Module, shape: Sequence[int], *, is_collapsed: bool = False) -> list[Node]:
    """The nodes of a module's evaluation on an input of a shape (1, H, W, C), each behind its inputs.

    `is_collapsed`: what a network's own modules consist of is not shown; each is one node. Raises `Unknown`
    for an equation that it has no word for.
    """
    modules: dict[Path, nn.Module] = {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        modules[context.module.path] = context.module
        return call(*args, **kwargs)

    # gates, which some blocks require, are None: ones
    asks = [p.name for p in signature(module.__call__).parameters.values() if p.default is p.empty][1:]
    more: Any = {name: False if name == "train" else None for name in asks}
    x = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    with use_native_forms(True), nn.override_named_call(True), nn.intercept_methods(note):
        variables = jax.eval_shape(partial(module.init, **more), jax.random.key(0), x)
        jaxpr = jax.make_jaxpr(partial(module.apply, **more))(variables, x)
    walk = _Walk({path: type(module) for path, module in modules.items()}, is_collapsed)
    weights = [_Weight() for _ in jax.tree.leaves(variables)]
    walk.nodes.append(Node("input", "input", [], shape=tuple(shape[1:])))
    (out,) = walk.run(jaxpr.jaxpr, jaxpr.consts, [*weights, 0], ())
    walk.nodes.append(Node("output", "output", [out], shape=jaxpr.out_avals[0].shape[1:]))
    return _needed(walk.nodes)


def _needed(nodes: list[Node]) -> list[Node]:
    """Those that lead to the output, which is the last."""
    keep, found = {len(nodes) - 1}, []
    for i in reversed(range(len(nodes))):
        if i in keep:
            keep.update(nodes[i].inputs)
            found.append(i)
    places = {old: new for new, old in enumerate(reversed(found))}
    for i in places:
        nodes[i].inputs = [places[j] for j in nodes[i].inputs]
    return [nodes[i] for i in places]


@dataclass(frozen=True)
class _Weight:
    """A value that the image does not enter."""

    number: float | None = None  # where it is one that is known
    is_turned: bool = False  # a kernel turned around, as that of an adjoint convolution


class _Walk:
    """Goes through a jaxpr; a value that the image enters is the number of the node that gives it."""

    def __init__(self, classes: dict[Path, type[nn.Module]], is_collapsed: bool):
        self.classes = classes
        self.is_collapsed = is_collapsed
        self.nodes: list[Node] = []
        self.open: dict[Path, int] = {}  # nodes of modules that are one node

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], scopes: Path) -> list[Any]:
        """Values of a jaxpr's outputs, from those of its inputs; `scopes` is the name stack outside it."""
        env: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
        env |= {var: _constant(const) for var, const in zip(jaxpr.constvars, consts, strict=True)}
        for eqn in jaxpr.eqns:
            values = [_constant(x.val) if hasattr(x, "val") else env[x] for x in eqn.invars]
            env |= dict(zip(eqn.outvars, self.visit(eqn, values, scopes), strict=True))
        return [_constant(x.val) if hasattr(x, "val") else env[x] for x in jaxpr.outvars]

    def visit(self, eqn: Any, values: list[Any], scopes: Path) -> list[Any]:
        scopes = (*scopes, *(scope.name for scope in eqn.source_info.name_stack.stack))
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        inputs = list(dict.fromkeys(x for x in values if isinstance(x, int)))
        if not inputs:
            return [_weight(eqn, values)] * len(eqn.outvars)
        layer = self.layer_at(scopes)
        if layer is not None:
            return [self.take_in(layer, eqn, inputs)] * len(eqn.outvars)
        if inner is not None and eqn.params.get("name") not in ACTIVATIONS:
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values, scopes)
        return [self.operation(eqn, values, inputs)] * len(eqn.outvars)

    def layer_at(self, scopes: Path) -> Path | None:
        """The outermost module in a name stack that is one node."""
        path: Path = ()
        for scope in scopes:
            longer = (*path, scope.split(".")[0])
            if longer in self.classes:
                path = longer
                if self.is_collapsed or _layer(self.classes[path]):
                    return path
        return None

    def take_in(self, path: Path, eqn: Any, inputs: list[int]) -> int:
        """An equation of a module that is one node."""
        cls = self.classes[path]
        layer = _layer(cls)
        at = self.open.get(path)
        outside = [i for i in inputs if i != at]
        if at is None or (layer and outside and at not in inputs and set(outside) - {*self.nodes[at].inputs}):
            kind = {"conv": "conv", "dense": "dense"}.get(layer, "norm" if layer else "part")
            at = self.open[path] = self.add(kind, layer or f"{path[-1]}: {cls.__name__}", outside)
        node = self.nodes[at]
        node.inputs += [i for i in outside if i not in node.inputs and not self.is_behind(i, at)]
        if layer and eqn.primitive.name == "conv_general_dilated":
            node.title, node.details = _convolution(eqn)
        elif layer == "dense" and eqn.primitive.name == "dot_general":
            node.details = [" → ".join(f"{n:,}" for n in eqn.invars[1].aval.shape)]
        node.shape = _of_one(eqn.outvars[0].aval.shape)
        return at

    def is_behind(self, i: int, at: int) -> bool:
        """Whether node i has node `at` among what it is made of."""
        return i == at or any(self.is_behind(j, at) for j in self.nodes[i].inputs if j >= at)

    def operation(self, eqn: Any, values: list[Any], inputs: list[int]) -> int:
        """An equation that is an operation of its own, or none that is worth a node."""
        name, p, shape = eqn.primitive.name, eqn.params, eqn.outvars[0].aval.shape
        node = self.nodes[inputs[-1]]
        add = partial(self.add, shape=_of_one(shape))
        if node.title == _LRN and not node.is_done and set(inputs) <= {inputs[-1], *node.inputs}:
            node.is_done = len(inputs) == 2
            return inputs[-1]
        if name.startswith("reduce_window"):
            return self.pool(eqn, inputs)
        if name in ("reduce_sum", "reduce_max"):
            word = "max" if name == "reduce_max" else "mean"
            axes = "of the map" if {1, 2} <= {*p["axes"]} else f"over axes {p['axes']}"
            return add("pool", f"{word} {axes}", inputs)
        if name == "div" and node.kind == "pool":  # by the number of pixels
            return inputs[-1]
        if name == "conv_general_dilated":
            title, details = _convolution(eqn)
            is_turned = isinstance(values[1], _Weight) and values[1].is_turned
            return add("conv", title, inputs, [*details, *(["adjoint"] if is_turned else [])])
        word = ACTIVATIONS.get(p.get("name", name))
        if word or (name == "max" and _number(values) == 0):
            return add("act", word or "ReLU", inputs)
        if name in _SIGNS:
            return self.arithmetic(_SIGNS[name], values, inputs, _of_one(shape))
        if name == "concatenate":
            return add("join", "concatenate", inputs)
        before = eqn.invars[0].aval.shape
        if name == "reshape" and len(before) == 4 and len(shape) == 2 and math.prod(before[1:3]) > 1:
            return add("scale", "flatten", inputs)
        if name in ("neg", "erfc"):
            return add("scale", name, inputs)
        words = _rearranged(name, p, before, shape)
        if words is not None:
            return add("scale", words, inputs) if words else inputs[-1]
        raise Unknown(f"there is no word for the operation {name} on {[x.aval for x in eqn.invars]}")

    def pool(self, eqn: Any, inputs: list[int]) -> int:
        p, shape = eqn.params, _of_one(eqn.outvars[0].aval.shape)
        _, *window, over_channels = p["window_dimensions"]
        if over_channels > 1:
            node = self.nodes[inputs[-1]]
            if node.title == "square":  # what the sum is of
                node.kind, node.title, node.details = "norm", _LRN, [f"{over_channels} neighbours"]
                return inputs[-1]
            raise Unknown(f"there is no word for a window over {over_channels} channels")
        word = "max" if eqn.primitive.name == "reduce_window_max" else "mean"
        strides = _times(p["window_strides"][1:3])
        return self.add("pool", f"{word} pool {_times(window)}", inputs, _stride(strides), shape)

    def arithmetic(self, sign: str, values: list[Any], inputs: list[int], shape: tuple[int, ...]) -> int:
        if len(inputs) == 2 and self.nodes[inputs[-1]].title == "erfc":  # x / 2 erfc(-x / sqrt(2))
            return self.add("act", "GELU", self.nodes[inputs[0]].inputs, shape=shape)
        if len(inputs) == 2:
            kind = "sum" if sign in "+−×" else "scale"
            return self.add(kind, sign, inputs, shape=shape)
        if all(isinstance(x, int) for x in values):
            return self.add("scale", "square" if sign == "×" else f"x {sign} x", inputs, shape=shape)
        number = _number(values)
        if number == (0 if sign in "+−" else 1):
            return inputs[0]
        word = "parameters" if number is None else f"{number:.3g}"
        return self.add("scale", f"{sign} {word}", inputs, shape=shape)

    def add(
        self,
        kind: str,
        title: str,
        inputs: list[int],
        details: Sequence[str] = (),
        shape: tuple[int, ...] = (),
    ) -> int:
        self.nodes.append(Node(kind, title, list(inputs), list(details), shape))
        return len(self.nodes) - 1


def _layer(cls: type[nn.Module]) -> str:
    return next((word for layer, word in _LAYERS.items() if issubclass(cls, layer)), "")


def _constant(value: Any) -> _Weight:
    return _Weight(float(value) if jnp.ndim(value) == 0 else None)


def _number(values: list[Any]) -> float | None:
    return next((x.number for x in values if isinstance(x, _Weight)), None)


def _weight(eqn: Any, values: list[_Weight]) -> _Weight:
    """What an equation of weights gives."""
    if eqn.primitive.name in _SILENT:
        return values[0]
    is_turned = {x.is_turned for x in values if x.number is None}
    return _Weight(is_turned=eqn.primitive.name == "rev" or is_turned == {True})


def _of_one(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[1:])


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _stride(strides: str) -> list[str]:
    first, _, second = strides.partition("×")
    return [] if strides == "1×1" else [f"stride {first if first == second else strides}"]


def _convolution(eqn: Any) -> tuple[str, list[str]]:
    """Title and details of a convolution."""
    p = eqn.params
    inputs, kernel, outputs = p["dimension_numbers"]
    sizes = [eqn.invars[1].aval.shape[axis] for axis in kernel[2:]]
    channels = eqn.invars[0].aval.shape[inputs[1]]
    features = eqn.outvars[0].aval.shape[outputs[1]]
    groups, up, dilation = p["feature_group_count"], max(p["lhs_dilation"]), max(p["rhs_dilation"])
    is_depthwise = groups == channels > 1
    word = "up-conv" if up > 1 else "depthwise" if is_depthwise else "conv"
    details = [f"{features}" if is_depthwise and features == channels else f"{channels} → {features}"]
    details += [f"{groups} groups"] if groups > 1 and not is_depthwise else []
    details += [f"stride 1/{up}"] if up > 1 else _stride(_times(p["window_strides"]))
    details += [f"dilation {dilation}"] if dilation > 1 else []
    is_bare = up == 1 and max(sizes) > 1 and not any(map(sum, p["padding"]))
    details += ["no padding"] if is_bare else []
    return f"{word} {_times(sizes)}", details


def _rearranged(name: str, p: Any, before: Sequence[int], after: Sequence[int]) -> str | None:
    """What is done to the order of numbers: nothing worth a word is "", what is not known None."""
    if name == "slice":
        strides = p["strides"] or (1,) * len(before)
        if max(strides) > 1:
            return f"every {_ordinal(max(strides))} pixel"
        if before[-1] != after[-1]:
            return f"channels {p['start_indices'][-1]} to {p['limit_indices'][-1] - 1}"
        return "crop" if tuple(before) != tuple(after) else ""
    if name == "pad":
        if tuple(before) == tuple(after):
            return ""
        if math.prod(after) < math.prod(before):  # by a negative pad
            return "crop"
        return "zeros for new features" if before[:-1] == after[:-1] else "pad with zeros"
    if name == "split":
        return "split channels"
    if name == "transpose":
        return "shuffle channels" if len(before) == 5 else ""
    if name == "gather":
        return "copy pixels"
    if name == "broadcast_in_dim" and math.prod(after) > math.prod(before):
        return "copy pixels"
    return "" if name in _SILENT else None


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third", 4: "fourth"}.get(number, f"{number}th")
