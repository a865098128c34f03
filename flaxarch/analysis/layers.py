"""The layers of a network, with what they cost, read from the jaxpr of its evaluation.

Parameters and image are followed through the equations: where the two meet, there is a layer, and it belongs
to the module whose parameters these are. So no layer is missed whatever its code looks like, and a product
of the image with constants, such as a pooling, is no layer's.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import jax

from flaxarch.analysis.receptive_field import View, pixels, propagate

Path = tuple[str, ...]
_TAIL = ("div", "convert_element_type", "name")  # end a mean, a layer in another dtype, a stage
_RESIZINGS = ("resize", "adaptive pool")  # an equation for the height, then one for the width


@dataclass(frozen=True)
class LayerCost:
    """One run of one layer: a module that owns parameters, or a pooling or resizing."""

    path: str  # "layer1_0/conv1"; a pooling has the path of the module that it stands in
    kind: str  # "conv 3x3 / 2, 64 groups", "batch norm", "max pool 3x3 / 2"
    output_shape: tuple[int, ...]  # (H, W, C), or (C,), of one image
    num_params: int
    num_batch_stats: int
    macs: int
    activation_bytes: int  # of the output, for one image, in its own dtype
    receptive_field: tuple[int, int]  # height, width in pixels of the image
    stride: tuple[float, float]  # pixels from one unit of the output to the next


def collect_layers(jaxpr: Any, variables: Any, modules: dict[Path, str]) -> tuple[LayerCost, ...]:
    """Layers in order of execution; then those that only training runs.

    `jaxpr` is that of a function of `variables` and one image (1, H, W, C), traced with `nn`'s named calls;
    `modules` has the class of each module.
    """
    counts: dict[Path, tuple[int, int]] = {}
    weights: list[Any] = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(variables):
        collection, *path = (key.key for key in keys[:-1])
        n, path = math.prod(leaf.shape), tuple(path)
        params, stats = counts.get(path, (0, 0))
        counts[path] = params + n * (collection == "params"), stats + n * (collection == "batch_stats")
        weights.append(_Weight(frozenset([path]), None))
    _, height, width, _ = jaxpr.in_avals[-1].shape
    walk = _Walk(counts, modules)
    walk.run(jaxpr.jaxpr, jaxpr.consts, [*weights, _Features((pixels(height, 1), pixels(width, 2)))], ())
    for path in counts:
        if path not in walk.counted:
            kind = f"{_words(modules.get(path, 'parameters'))}, training only"
            walk.begin(path, kind, frozenset([path]), 0)
    return tuple(walk.layers)


class _Weight(NamedTuple):
    """A value that the image does not enter."""

    owners: frozenset[Path]  # modules whose parameters or statistics enter it
    value: Callable[[dict[int, Any]], Any] | None  # of constants, with a memory of what it takes; else None


class _Features(NamedTuple):
    """A value that the image enters."""

    views: tuple[View, View]  # of height and width


def scan_counts(params: Any) -> tuple[int, int]:
    """How many inputs of a scan's equation are constants, and how many are carried, by its parameters."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # from JAX 0.11 on
    return len(consts), len(carry)


class _Walk:
    """Goes through a jaxpr in order of execution and collects layers."""

    def __init__(self, counts: dict[Path, tuple[int, int]], modules: dict[Path, str]):
        self.counts = counts  # parameters and statistics of each module that owns some
        self.modules = modules  # classes of all modules
        self.counted: set[Path] = set()
        self.layers: list[LayerCost] = []
        self.current: tuple[Path, Any, Path] = ((), None, ())  # path, output and name stack of the last layer

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], scopes: Path) -> list[Any]:
        """Values of a jaxpr's outputs, from those of its inputs; `scopes` is the name stack outside it."""
        env: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
        env |= {var: _known(const) for var, const in zip(jaxpr.constvars, consts, strict=True)}
        for eqn in jaxpr.eqns:
            values = [_known(x.val) if hasattr(x, "val") else env[x] for x in eqn.invars]
            env |= dict(zip(eqn.outvars, self.visit(eqn, values, scopes), strict=True))
        return [_known(x.val) if hasattr(x, "val") else env[x] for x in jaxpr.outvars]

    def visit(self, eqn: Any, values: list[Any], scopes: Path) -> list[Any]:
        scopes = (*scopes, *(scope.name for scope in eqn.source_info.name_stack.stack))
        name, p = eqn.primitive.name, eqn.params
        inner = p.get("jaxpr", p.get("call_jaxpr"))
        if name == "scan":
            return self.scan(p, values, scopes)
        if inner is not None and _shapes(inner.invars) == _shapes(eqn.invars):
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values, scopes)
        owners = frozenset().union(*(x.owners for x in values if isinstance(x, _Weight)))
        if not any(isinstance(x, _Features) for x in values):
            is_known = all(x.value for x in values)
            outputs = range(len(eqn.outvars))
            return [_Weight(owners, partial(_compute, eqn, values, i) if is_known else None) for i in outputs]
        if name in ("while", "cond"):
            raise ValueError(f"the network's cost depends on its data: there is a `{name}` in it")
        weights = [x.value if isinstance(x, _Weight) else None for x in values]
        known = [value and partial(_evaluate, value) for value in weights]
        features = [x.views if isinstance(x, _Features) else (None, None) for x in values]
        height, width = (propagate(eqn, views, known) for views in zip(*features, strict=True))
        self.note(eqn, features, (height, width), owners, scopes)
        return [_Features((height, width))] * len(eqn.outvars)

    def scan(self, p: Any, values: list[Any], scopes: Path) -> list[Any]:
        """A loop of fixed length, such as `nn.scan`'s over blocks: its body as often as it runs."""
        (num_consts, num_carry), body = scan_counts(p), p["jaxpr"]
        consts, carry = values[:num_consts], values[num_consts:][:num_carry]
        slices = [_shift(x, -1) for x in values[num_consts + num_carry :]]
        stacked: list[Any] = []
        for _ in range(p["length"]):
            out = self.run(body.jaxpr, body.consts, [*consts, *carry, *slices], scopes)
            carry, stacked = out[:num_carry], [_shift(x, 1) for x in out[num_carry:]]
        return [*carry, *stacked]

    def note(
        self, eqn: Any, features: Any, views: tuple[View, View], owners: frozenset[Path], scopes: Path
    ) -> None:
        """Begin a layer at an equation, or go on with the last one."""
        name, (path, output, stack) = eqn.primitive.name, self.current
        if owners:
            is_product = name in ("conv_general_dilated", "dot_general")
            owner = _common(owners)
            if is_product or owner != path or output is None:
                kind = _product(eqn) if is_product else _words(self.modules.get(owner, "parameters"))
                self.begin(owner, kind, owners, _macs(eqn) if is_product else 0)
            self.go_on(owner, eqn, views, scopes)
            return
        kind = _pooling(eqn, next(v for v in features if v[0]), views)
        follows = scopes == stack and any(x is output for x in eqn.invars)
        if follows and (name in _TAIL or (kind in _RESIZINGS and kind == self.layers[-1].kind)):
            self.go_on(path, eqn, views, scopes)
        elif kind:
            path = self.module_at(scopes)
            if path not in self.counts or not path:  # else a part of a layer: the mean of a group norm
                self.begin(path, kind, frozenset(), 0)
                self.go_on(path, eqn, views, scopes)

    def module_at(self, scopes: Path) -> Path:
        """The module in a name stack of the network, its modules or their methods, and anything else."""
        path = ()
        for scope in scopes:
            longer = (*path, scope.split(".")[0])
            path = longer if longer in self.modules else path
        return path

    def begin(self, path: Path, kind: str, owners: frozenset[Path], macs: int) -> None:
        new = [self.counts[owner] for owner in owners - self.counted]
        self.counted |= owners
        params, stats = (sum(counts) for counts in zip((0, 0), *new, strict=True))
        self.layers.append(LayerCost("/".join(path), kind, (), params, stats, macs, 0, (0, 0), (0, 0)))

    def go_on(self, path: Path, eqn: Any, views: tuple[View, View], scopes: Path) -> None:
        """The last layer's output is that of this equation."""
        output = eqn.outvars[0]
        shape = output.aval.shape
        sides = [view.at for view in views if view.at is not None]
        others = [n for axis, n in enumerate(shape) if axis not in sides]
        others = others[1:] if others[:1] == [1] else others  # the batch
        self.current = (path, output, scopes)
        self.layers[-1] = replace(
            self.layers[-1],
            output_shape=(*(shape[axis] for axis in sides), *others),
            activation_bytes=math.prod(shape) * output.aval.dtype.itemsize,
            receptive_field=(views[0].size, views[1].size),
            stride=(_number(views[0].stride), _number(views[1].stride)),
        )


def _known(value: Any) -> _Weight:
    return _Weight(frozenset(), lambda memory: value)


def _compute(eqn: Any, inputs: list[_Weight], i: int, memory: dict[int, Any]) -> Any:
    """Output i of an equation of constants, such as those that make a matrix for interpolation."""
    if id(inputs) not in memory:
        out = eqn.primitive.bind(*(x.value(memory) for x in inputs if x.value), **eqn.params)
        memory[id(inputs)] = out if eqn.primitive.multiple_results else [out]
    return memory[id(inputs)][i]


def _evaluate(value: Callable[[dict[int, Any]], Any]) -> Any:
    return jax.jit(lambda: value({}))()  # one program: each operation alone takes as long to compile


def _shift(value: Any, by: int) -> Any:
    """A value as a loop's body sees it, without its first axis (-1), or its results behind it (+1)."""
    if isinstance(value, _Weight):
        return value._replace(value=None)
    axes = [view.at if view.at is None else view.at + by for view in value.views]
    return _Features(tuple(v._replace(at=at) for v, at in zip(value.views, axes, strict=True)))


def _shapes(variables: Sequence[Any]) -> list[tuple[int, ...]]:
    return [x.aval.shape for x in variables]


def _common(paths: frozenset[Path]) -> Path:
    first, last = min(paths), max(paths)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _macs(eqn: Any) -> int:
    """Multiply-accumulates of a convolution or a matrix product."""
    lhs, rhs = (x.aval.shape for x in eqn.invars[:2])
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[axis] for axis in contracted)
    inputs, _, outputs = eqn.params["dimension_numbers"]
    # a transposed convolution: each input meets each tap once, and the zeros between inputs none
    is_transposed = max(eqn.params["lhs_dilation"]) > 1
    shape, spec = (lhs, inputs) if is_transposed else (eqn.outvars[0].aval.shape, outputs)
    return math.prod(shape[axis] for axis in (spec[0], *spec[2:])) * math.prod(rhs)


def _product(eqn: Any) -> str:
    """What kind of convolution or matrix product this is: "conv 3x3 / 2, 64 groups"."""
    p = eqn.params
    if eqn.primitive.name == "dot_general":
        return "dense"
    inputs, kernel, _ = p["dimension_numbers"]
    sizes = [eqn.invars[1].aval.shape[axis] for axis in kernel[2:]]
    groups, channels = p["feature_group_count"], eqn.invars[0].aval.shape[inputs[1]]
    is_depthwise = groups == channels > 1
    up, down = p["lhs_dilation"], p["window_strides"]
    return "".join(
        (
            "transposed " if max(up) > 1 else "depthwise " if is_depthwise else "",
            f"conv {_times(sizes)}",
            f" * {_times(up, short=True)}" if max(up) > 1 else "",
            f" / {_times(down, short=True)}" if max(down) > 1 else "",
            f", dilation {_times(p['rhs_dilation'], short=True)}" if max(p["rhs_dilation"]) > 1 else "",
            f", {groups} groups" if groups > 1 and not is_depthwise else "",
        )
    )


def _pooling(eqn: Any, before: tuple[View, View], after: tuple[View, View]) -> str:
    """What kind of pooling or resizing an equation is; empty where it is neither."""
    name, p, axes = eqn.primitive.name, eqn.params, [view.at for view in before]
    if None in axes:
        return ""
    word = {"max": "max", "sum": "avg"}.get(name.split("_")[-1], "")
    if name.startswith("reduce_window"):
        sizes = [p["window_dimensions"][axis] for axis in axes]
        strides = [p["window_strides"][axis] for axis in axes]
        by = f" / {_times(strides, short=True)}" if max(strides) > 1 else ""
        return f"{word} pool {_times(sizes)}{by}".strip() if max(sizes) > 1 else ""  # else over channels
    if name.startswith("reduce_") and word and set(axes) <= set(p["axes"]):
        return f"global {word} pool"
    ratios = [b.stride / a.stride for a, b in zip(before, after, strict=True) if b.at is not None]
    if name in ("dot_general", "gather") and any(ratio != 1 for ratio in ratios):
        return "adaptive pool" if max(ratios) > 1 else "resize"
    return ""


def _times(sizes: Sequence[int], short: bool = False) -> str:
    """3x3; `short`: 3, where both are equal."""
    return "x".join(map(str, sizes[:1] if short and len(set(sizes)) == 1 else sizes))


def _number(x: Fraction) -> float:
    return x.numerator if x.denominator == 1 else float(x)


def _words(name: str) -> str:
    """BatchNorm -> batch norm."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
