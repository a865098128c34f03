"""The blocks of any network, in order: what gates act on, what may be deleted, and what may be exchanged.

Nothing here knows a family: a network is traced, without computing it, while its modules are called and its
residual sums made.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Network
from flaxarch.loops import in_form_of
from flaxarch.residual import is_skipping, replace_residual, skip_dropped


@dataclass(frozen=True)
class Block:
    """A block of a network's trunk; shapes are (H, W, C), or (C,), of one image."""

    name: str  # of its first module, as the variables have it: "layer1_0"
    paths: tuple[str, ...]  # of its modules: one, or a convolution and the norm behind it
    modules: tuple[nn.Module, ...]  # copies without name and variables: equal where blocks are alike
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    is_residual: bool  # whether there is a sum x + g * F(x)

    @property
    def is_deletable(self) -> bool:
        """Whether the network works without it: a shortcut goes around it, or it keeps the shape."""
        return self.is_residual or self.input_shape == self.output_shape


def blocks(model: nn.Module, input_shape: Sequence[int], *, train: bool = False) -> tuple[Block, ...]:
    """The blocks of a network for images (H, W, C), in order of execution.

    >>> [block.name for block in blocks(flaxarch.create("resnet8_keras"), (32, 32, 3))]
    ['layer1_0', 'layer2_0', 'layer3_0']

    Of a residual network they are the residual blocks, one for each of its `gates`. Of any other they are the
    modules of several layers that the network calls, as an Inception module or two layers of a plain network,
    and its own convolutions and dense layers, each with the norm that follows; the head is none. What stands
    between two blocks, such as an activation or a pool, belongs to neither. With `train` their modules are
    those of a network that trains, whose batch norms take the batch's statistics.
    """
    return _blocks(unrolled(model), tuple(input_shape), train)


def deletable(model: nn.Module, input_shape: Sequence[int]) -> tuple[Block, ...]:
    """Those of the blocks that the network works without: one for each gate of `apply_gated`.

    Raises ValueError where there is none.
    """
    found = tuple(block for block in blocks(model, input_shape) if block.is_deletable)
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no block to delete: none is residual, and none keeps its shape"
        )
    return found


def residual_blocks(model: nn.Module, input_shape: Sequence[int]) -> tuple[Block, ...]:
    """The blocks of a residual network; raises ValueError where it is none."""
    found = blocks(model, input_shape)
    if not found or not found[0].is_residual:
        raise ValueError(f"{type(model).__name__} has no residual block, so that it has one path only")
    return found


def unrolled(model: nn.Module) -> nn.Module:
    """The same network without loops over blocks, in which one block stands for many."""
    loops: Any = {name: False for name in ("scan", "reversible") if getattr(model, name, False)}
    return model.clone(**loops) if loops else model


def model_call(model: nn.Module, *, train: bool) -> Callable[..., Any]:
    """apply(variables, images, **more) -> logits; auxiliary heads are left out, new statistics forgotten.

    The variables may be stacked for a loop or not, whichever the model is for.
    """
    more: dict[str, Any] = {"exits": False} if getattr(model, "aux_heads", ()) else {}

    def call(variables: Any, *args: Any, **kwargs: Any) -> Any:
        variables = in_form_of(model, variables)
        if not train:
            return model.apply(variables, *args, train=False, **more, **kwargs)
        return model.apply(variables, *args, train=True, mutable=["batch_stats"], **more, **kwargs)[0]

    return call


@contextmanager
def watch_calls(watch: Callable[[nn.Module, jax.Array, Callable[[], Any]], Any]) -> Iterator[None]:
    """While it is open, watch(module, x, proceed) stands in for each module's call; proceed() is the call.

    `x` is the first argument. A class that calls its base class is one call.
    """
    open_modules: list[nn.Module] = []

    def intercept(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or (open_modules and module is open_modules[-1]):
            return method(*args, **kwargs)
        open_modules.append(module)
        try:
            return watch(module, args[0], lambda: method(*args, **kwargs))
        finally:
            open_modules.pop()

    with nn.intercept_methods(intercept), skip_dropped() if is_skipping() else nullcontext():
        yield


@dataclass
class _Part:
    """A block while it is found."""

    input_shape: tuple[int, ...]
    is_layer: bool = False  # a convolution or dense layer, not a module of several
    is_residual: bool = False
    output_shape: tuple[int, ...] = ()
    paths: list[str] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)

    def add(self, module: nn.Module) -> None:
        self.paths.append("/".join(module.path))
        self.modules.append(module.clone(parent=None, name=None))


class _Walk:
    """Collects parts while a network is traced."""

    def __init__(self, head: str | None):
        self.head = head
        self.parts: list[_Part] = []
        self.num_calls = 0  # of modules
        self.num_roots = 0  # open ones: the network, and any that is traced on the way
        self.is_open = False  # the last part

    def call(self, module: nn.Module, x: jax.Array, proceed: Callable[[], Any]) -> Any:
        """For `watch_calls`."""
        self.num_calls += 1
        if not module.path:
            self.num_roots += 1
            try:
                return proceed()
            finally:
                self.num_roots -= 1
        if self.num_roots > 1 or self.is_open or not self.is_part(module):
            return proceed()
        return self.part(module, x, proceed)

    def is_part(self, module: nn.Module) -> bool:
        """Whether a network calls it, and it is no network itself, and not the head."""
        parent = module.parent
        is_outer = isinstance(parent, nn.Module) and (not parent.path or isinstance(parent, Network))
        return is_outer and not isinstance(module, Network) and "/".join(module.path) != self.head

    def part(self, module: nn.Module, x: jax.Array, proceed: Callable[[], Any]) -> Any:
        part = _Part(x.shape[1:])
        num_calls, self.is_open = self.num_calls, True
        self.parts.append(part)
        y = proceed()
        self.is_open = False
        names = module.variables.get("params", {})
        part.is_layer = num_calls == self.num_calls
        if part.is_layer and "kernel" not in names:
            self.parts.pop()
            if not names or not self.parts or not self.parts[-1].is_layer:
                return y  # no layer's norm: dropout, or the norm ahead of a head
            part = self.parts[-1]
        part.add(module)
        part.output_shape = y.shape[1:]
        return y

    def sum(self, x: jax.Array, y: jax.Array, gate: jax.Array | None) -> jax.Array:
        """In the place of `residual`: one in the network itself belongs to the module called last."""
        if self.num_roots == 1:
            self.parts[-1].is_residual = True
        return x + y if gate is None else x + gate * y


@lru_cache(maxsize=64)
def _blocks(model: nn.Module, input_shape: tuple[int, ...], train: bool) -> tuple[Block, ...]:
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    key = jax.random.key(0)
    variables = jax.eval_shape(partial(model.init, train=False), key, images)
    call = partial(model_call(model, train=train), rngs={"dropout": key, "gates": key} if train else None)
    walk = _Walk(getattr(model, "head", None))
    with watch_calls(walk.call), replace_residual(walk.sum):
        jax.eval_shape(call, variables, images)
    if not walk.parts:
        raise ValueError(f"{type(model).__name__} has no block: it calls no layer but its head")
    is_residual = any(part.is_residual for part in walk.parts)
    return tuple(
        Block(
            part.paths[0],
            tuple(part.paths),
            tuple(part.modules),
            part.input_shape,
            part.output_shape,
            part.is_residual,
        )
        for part in walk.parts
        if part.is_residual == is_residual
    )
