"""Any network as stem -> blocks -> head: pure functions of the arrays between the blocks.

The network is traced once, and its program is cut at the arrays that its blocks read. So a block's function
has all that belongs to it, wherever the code has it: an activation shared by shortcut and branch, a sum that
the network itself makes, a pool on the way to the next block. A cut is refused where more than the one array
goes past it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
from flax import linen as nn
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from flaxarch.depth.trunk import Block, blocks, model_call, unrolled, watch_calls
from flaxarch.residual import replace_residual


@dataclass(frozen=True)
class Chain:
    """A network as functions from x_i to x_j: x_i is what block i reads, and x_n what the last one leaves.

    >>> chain = Chain(model, (32, 32, 3))
    >>> x = chain.run(variables, images, stop=0)                          # the stem
    >>> for i in range(len(chain.blocks)):
    ...     x = chain.run(variables, x, start=i, stop=i + 1)              # a block
    >>> logits = chain.run(variables, x, start=len(chain.blocks))         # the head

    All methods are pure functions of arrays, for `jit`, `vmap`, `jvp` and `vjp`, and of any number of images;
    each traces the network anew only for another shape. Nothing is drawn: to see a network with dropout or
    stochastic depth as in training, clone it without.
    """

    model: nn.Module
    input_shape: tuple[int, int, int]  # (H, W, C) of an image
    train: bool = False  # whether batch norm takes the batch's statistics, which are not kept

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, as `flaxarch.depth.blocks` finds them."""
        return blocks(self.model, self.input_shape)

    def states(self, variables: Any, images: jax.Array) -> list[jax.Array]:
        """[x_0, ..., x_n]: all arrays between the blocks."""
        program = self._program(variables, len(images), images.dtype)
        return program.evaluate(variables, program.images, images, program.states)

    def run(
        self, variables: Any, x: jax.Array, *, start: int | None = None, stop: int | None = None
    ) -> jax.Array:
        """From x_start to x_stop.

        Args:
          variables: the network's `{"params": ..., "batch_stats": ...}`.
          x: x_start, or images (N, H, W, C) where `start` is None.
          start: 0 to n, or None.
          stop: 0 to n, not less than `start`; None for the logits.

        Raises ValueError where x_stop is no function of x_start alone.
        """
        n = len(self.blocks)
        for place in (start, stop):
            if place is not None and not 0 <= place <= n:
                raise ValueError(f"the arrays of a network of {n} blocks are x_0 to x_{n}, not x_{place}")
        if start is not None and stop is not None and start > stop:
            raise ValueError(f"x_{stop} stands ahead of x_{start}")
        program = self._program(variables, len(x), x.dtype)
        source = program.images if start is None else program.states[start]
        target = program.logits if stop is None else program.states[stop]
        (found,) = program.evaluate(variables, source, x, [target])
        return found

    def branch(self, variables: Any, x: jax.Array, i: int) -> jax.Array:
        """F_i(x_i), what residual block i adds to its shortcut, (N, H', W', C')."""
        return self._summand(variables, x, i, 1)

    def shortcut(self, variables: Any, x: jax.Array, i: int) -> jax.Array:
        """h_i(x_i), what residual block i adds its branch to: x_i itself, but where the shape changes."""
        return self._summand(variables, x, i, 0)

    def _summand(self, variables: Any, x: jax.Array, i: int, which: int) -> jax.Array:
        program = self._program(variables, len(x), x.dtype)
        if not program.summands:
            raise ValueError(f"{type(self.model).__name__} has no residual block: its blocks have no branch")
        (found,) = program.evaluate(variables, program.states[i], x, [program.summands[i][which]])
        return found

    def _program(self, variables: Any, num_images: int, dtype: Any) -> "_Program":
        leaves, tree = jax.tree.flatten(variables)
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
        images = jax.ShapeDtypeStruct((num_images, *self.input_shape), dtype)
        return _trace(unrolled(self.model), self.blocks, self.train, tree, shapes, images)


@dataclass(frozen=True, eq=False)
class _Program:
    """A network's jaxpr, and where in it the arrays between the blocks are."""

    closed: Any
    images: Any  # a variable of the jaxpr, as all these
    states: list[Any]
    summands: list[tuple[Any, Any]]  # of each residual block: shortcut and branch
    logits: Any

    def evaluate(self, variables: Any, source: Any, x: jax.Array, targets: Sequence[Any]) -> list[jax.Array]:
        """The values of `targets`, from the network's variables and the value `x` of `source` alone."""
        jaxpr = self.closed.jaxpr
        if x.shape != source.aval.shape:
            raise ValueError(f"x is {tuple(x.shape)}, and is to be {tuple(source.aval.shape)}")
        needed, eqns = {target for target in targets if target is not source}, []
        for eqn in reversed(jaxpr.eqns):
            if not needed.isdisjoint(eqn.outvars):
                eqns.append(eqn)
                needed.update(v for v in eqn.invars if not isinstance(v, Literal) and v is not source)
        if self.images in needed:
            raise ValueError("the network cannot be cut here: more than one array goes from block to block")
        part = jaxpr.replace(
            invars=[*jaxpr.invars[:-1], source],
            outvars=list(targets),
            eqns=eqns[::-1],
            debug_info=jaxpr.debug_info.with_unknown_names(),
        )
        return jaxpr_as_fun(ClosedJaxpr(part, self.closed.consts))(*jax.tree.leaves(variables), x)


@lru_cache(maxsize=16)
def _trace(
    model: nn.Module,
    found: tuple[Block, ...],
    train: bool,
    tree: Any,
    shapes: tuple[jax.ShapeDtypeStruct, ...],
    images: jax.ShapeDtypeStruct,
) -> _Program:
    def forward(leaves: Any, images: jax.Array) -> Any:
        watch = _Watch(found)
        with watch_calls(watch.call), replace_residual(watch.sum):
            logits = model_call(model, train=train)(jax.tree.unflatten(tree, leaves), images)
        states = [*(watch.read[i] for i in range(len(found))), watch.left[len(found) - 1]]
        return states, watch.summands, logits

    closed, shape = jax.make_jaxpr(forward, return_shape=True)(list(shapes), images)
    outputs = jax.tree.unflatten(jax.tree.structure(shape), closed.jaxpr.outvars)
    return _Program(closed, closed.jaxpr.invars[-1], *outputs)


class _Watch:
    """Collects what blocks read and leave while a network is traced."""

    def __init__(self, found: Sequence[Block]):
        self.first = {block.paths[0]: i for i, block in enumerate(found)}
        self.last = {block.paths[-1]: i for i, block in enumerate(found)}
        self.read: dict[int, jax.Array] = {}
        self.left: dict[int, jax.Array] = {}
        self.summands: list[tuple[jax.Array, jax.Array]] = []
        self.is_open = False  # a block

    def call(self, module: nn.Module, x: jax.Array, proceed: Callable[[], Any]) -> Any:
        """For `watch_calls`."""
        path = "/".join(module.path)
        if path in self.first:
            self.read[self.first[path]], self.is_open = x, True
        y = proceed()
        if path in self.last:
            self.left[self.last[path]], self.is_open = y, False
        return y

    def sum(self, x: jax.Array, y: jax.Array, gate: jax.Array | None) -> jax.Array:
        """In the place of `residual`; one in the network itself ends a block."""
        y = y if gate is None else gate * y
        self.summands.append((x, y))
        if not self.is_open:
            self.left[len(self.summands) - 1] = x + y
            return self.left[len(self.summands) - 1]
        return x + y
