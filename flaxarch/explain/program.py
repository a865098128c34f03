"""A network's evaluation as a program whose arrays have names: what modules give, and the last feature map.

Nothing here knows a family: a network is traced once, without computing it, while its modules are called, and
its equations are evaluated with an array exchanged or with another rule for some of them.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.core import eval_jaxpr
from jax.extend.core import Literal, get_opaque_trace_state

from flaxarch.depth.trunk import model_call, unrolled, watch_calls

Array = jax.Array | np.ndarray
# What gives an equation's outputs in place of the equation itself; None: the equation does.
Rule = Callable[[Any, Sequence[Any]], Sequence[Any] | None]
# What keeps a function of a mean affine, with `div` by what does not depend on it: all that a linear head is.
_PRODUCTS = {"mul", "dot_general", "conv_general_dilated", "dense_conv"}  # with one such factor
_LINEAR = {
    *("add", "sub", "neg", "convert_element_type", "copy", "name", "reduce_sum"),
    *("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose"),
}


@dataclass(frozen=True, eq=False)
class Program:
    """A network's jaxpr, and where in it its layers are."""

    network: str  # its class
    closed: Any
    images: Any  # a variable of the jaxpr, as those below
    layers: Mapping[str, Any]  # what each module gives, by the module's path: "layer1_0/conv1"
    kernels: tuple[str, ...]  # paths of the modules with a kernel, in order of execution
    head_input: Any
    logits: Any

    def layer(self, name: str | None) -> Any:
        """The variable of a layer; `name` None: of the last feature map. ValueError: there is none."""
        if name is None:
            if (found := self.last_map()) is None:
                raise ValueError(f"{self.network} has no feature map: nothing in it has height and width")
            return found
        if name not in self.layers:
            near = difflib.get_close_matches(name, self.layers, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(self.outer())}"
            raise ValueError(f"{self.network} has no layer {name!r}: {hint}")
        return self.layers[name]

    def feature_map(self, name: str | None) -> Any:
        """As `layer`, of layers (N, H, W, C) with more than one place only."""
        found = self.layer(name)
        if not _is_map(found):
            shape = "x".join(map(str, found.aval.shape[1:]))
            raise ValueError(
                f"{name} gives no map with height and width: what it gives of an image is {shape}"
            )
        return found

    def outer(self) -> list[str]:
        """The layers that are directly in the network."""
        return [name for name in self.layers if "/" not in name]

    def last_map(self) -> Any:
        """The array with height and width, not both 1, that is nearest to the logits; None: there is none.

        For a network whose logits are maps, it is what the head reads. A map of one pixel shows no place: a
        head that reads one is passed by, up to the array before that has several.
        """
        start = self.head_input if self.logits.aval.ndim == 4 else self.logits
        made, order, fed = {}, {}, {self.images}
        for i, eqn in enumerate(self.closed.jaxpr.eqns):
            if not fed.isdisjoint(_variables(eqn.invars)):
                fed.update(eqn.outvars)
                made |= dict.fromkeys(eqn.outvars, eqn)
                order |= dict.fromkeys(eqn.outvars, i)
        found, seen, ahead = [], set(), [start]
        while ahead:
            var = ahead.pop()
            if var in seen or var not in made:
                continue
            seen.add(var)
            if _is_map(var) and made[var].primitive.name != "transpose":  # of NCHW, ahead of a flattening
                found.append(var)
            else:
                ahead += _variables(made[var].invars)
        return max(found, key=order.__getitem__, default=None)

    def name_of(self, var: Any) -> str:
        """The layer that gives an array, the outermost of several; or "the last feature map"."""
        same = {var}
        for eqn in reversed(self.closed.jaxpr.eqns):
            if eqn.primitive.name == "name" and eqn.outvars[0] in same:
                same.update(eqn.invars)
        names = [name for name, layer in self.layers.items() if layer in same]
        return min(names, key=lambda name: name.count("/"), default="the last feature map")

    def is_linear_in_the_mean(self, features: Any) -> bool:
        """Whether the logits are an affine function of the mean over height and width of a map alone."""
        fed: set[Any] = {features}
        for eqn in self.closed.jaxpr.eqns:
            read, name = [not isinstance(x, Literal) and x in fed for x in eqn.invars], eqn.primitive.name
            if not any(read):
                continue
            if features in _variables(eqn.invars):
                is_kept = name == "reduce_sum" and tuple(eqn.params["axes"]) == (1, 2)
            elif name in _PRODUCTS:
                is_kept = sum(read) == 1
            else:
                is_kept = name in _LINEAR or (name == "div" and not read[1])
            if not is_kept:
                return False
            fed.update(eqn.outvars)
        return self.logits in fed

    def evaluate(
        self,
        variables: Any,
        images: jax.Array,
        targets: Sequence[Any],
        *,
        changed: Mapping[Any, Callable[[Any], Any]] | None = None,
        rule: Rule | None = None,
    ) -> list[jax.Array]:
        """Values of `targets`; an array in `changed` is exchanged for what its function makes of it."""
        jaxpr, changed = self.closed.jaxpr, changed or {}
        inputs = [*jax.tree.leaves(variables), images]
        env = dict(zip(jaxpr.constvars, self.closed.consts, strict=True))
        env |= dict(zip(jaxpr.invars, inputs, strict=True))
        for eqn in jaxpr.eqns:
            values = [x.val if isinstance(x, Literal) else env[x] for x in eqn.invars]
            outputs = (rule and rule(eqn, values)) or bound(jaxpr, eqn, values)
            for var, value in zip(eqn.outvars, outputs, strict=True):
                env[var] = changed[var](value) if var in changed else value
        return [env[x] for x in targets]


def bound(jaxpr: Any, eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """The outputs of one equation of a jaxpr."""
    given = {x: value for x, value in zip(eqn.invars, values, strict=True) if not isinstance(x, Literal)}
    one = jaxpr.replace(
        constvars=[],
        invars=list(given),
        outvars=eqn.outvars,
        eqns=[eqn],
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    return eval_jaxpr(one, [], *given.values())


def trace(model: nn.Module, variables: Any, images: Any) -> Program:
    """The program of a network in evaluation, for images (N, H, W, C); arrays or their shapes will do."""
    leaves, tree = jax.tree.flatten(variables)
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    if len(images.shape) != 4:
        raise ValueError(f"images are a batch (N, H, W, C), not an array of shape {tuple(images.shape)}")
    return _trace(unrolled(model), tree, shapes, jax.ShapeDtypeStruct(images.shape, images.dtype))


@lru_cache(maxsize=16)
def _trace(
    model: nn.Module, tree: Any, shapes: tuple[jax.ShapeDtypeStruct, ...], images: jax.ShapeDtypeStruct
) -> Program:
    names: list[str] = []
    kernels: list[str] = []

    def forward(leaves: Any, images: jax.Array) -> Any:
        watch = _Watch(getattr(model, "head", None))
        with watch_calls(watch.call):
            logits = model_call(model, train=False)(jax.tree.unflatten(tree, leaves), images)
        names[:], kernels[:] = watch.outputs, watch.kernels
        return list(watch.outputs.values()), watch.head_input, logits

    closed, shape = jax.make_jaxpr(forward, return_shape=True)(list(shapes), images)
    outputs, head_input, logits = jax.tree.unflatten(jax.tree.structure(shape), closed.jaxpr.outvars)
    layers = dict(zip(names, outputs, strict=True))
    first = tuple(dict.fromkeys(kernels))
    return Program(type(model).__name__, closed, closed.jaxpr.invars[-1], layers, first, head_input, logits)


class _Watch:
    """Collects what modules give while a network is traced; of a module called again, the last call's."""

    def __init__(self, head: str | None):
        self.head = head
        self.outputs: dict[str, jax.Array] = {}
        self.kernels: list[str] = []
        self.head_input: jax.Array | None = None
        self.num_roots = 0  # open ones: the network, and any that is traced on the way
        self.level: Any = None  # of the network's trace: what is in a rematerialised part is not to be had

    def call(self, module: nn.Module, x: jax.Array, proceed: Callable[[], Any]) -> Any:
        """For `watch_calls`."""
        level = get_opaque_trace_state(convention="flax")
        if not module.path:
            self.num_roots += 1
            self.level = self.level or level
        try:
            y = proceed()
        finally:
            self.num_roots -= not module.path
        if module.path and self.num_roots == 1 and level == self.level:
            path = "/".join(module.path)
            if path == self.head:
                self.head_input = x
            if "kernel" in module.variables.get("params", {}):
                self.kernels.append(path)
            if isinstance(y, jax.Array) and y is not x:  # as dropout in evaluation gives what it is given
                self.outputs.pop(path, None)  # its place is that of the last call
                self.outputs[path] = y
        return y


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [x for x in atoms if not isinstance(x, Literal)]


def _is_map(var: Any) -> bool:
    return var.aval.ndim == 4 and var.aval.shape[1] * var.aval.shape[2] > 1
