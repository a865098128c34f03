"""Residual networks as differential equations: E 2017, https://doi.org/10.1007/s40304-017-0103-z.

Alike blocks that follow each other, x_{i+1} = block(x_i, theta_i), are Euler's method with a step h = 1 for

    x' = f(t, x, theta(t)),    f(t, x, theta) = block(x, theta) - x,    t from 0 to the number of blocks.

Of a pre-activation block, x + F(x), the vector field f is the branch F itself. Where an activation is behind
the sum, relu(x + F(x)), it is max(F(x), -x) for the x >= 0 that the ReLU before it leaves: F, but that no x
is driven below zero. It is as smooth in x as F, so that any solver takes it, and Euler's steps up to h = 1
keep x >= 0. A block with the gate h, relu(x + h F(x)), is another discretisation, Euler's projected one
(Dupuis & Nagurney 1993, https://doi.org/10.1007/BF02073589): the same with h = 1 and where there is no
activation, and else equal where x is well above 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from flaxarch.depth.orders import groups
from flaxarch.depth.trunk import blocks, model_call, residual_blocks, unrolled, watch_calls
from flaxarch.loops import unstack_blocks
from flaxarch.ode.bases import Basis, piecewise_constant, theta_at
from flaxarch.residual import replace_residual


@dataclass(frozen=True)
class Flow:
    """Alike residual blocks in a row as x' = f(t, x, theta(t)), t from 0 to t1.

    >>> def rk4(flow, x, theta):                             # with two steps for each block
    ...     return solve(flow.vector_field, x, theta, flow.times(2 * flow.num_blocks), RK4)
    >>> logits = apply_flows(model, variables, images, rk4)

    All methods are pure functions of arrays. `theta` are coefficients {"params": ..., "batch_stats": ...} of
    theta(t) in `basis`: for the piecewise constant one the variables of the blocks, stacked. Another basis or
    time is `dataclasses.replace(flow, basis=..., t1=...)`. With the blocks of a network that trains, batch
    norm takes the statistics of the batch, at whatever time and state a solver asks; they move in `euler`
    alone. Nothing is drawn: clone a network with dropout without.
    """

    block: nn.Module  # any one of them, without its variables
    paths: tuple[str, ...]  # of the blocks, in order: "layer1_0"
    start: int  # number of the first among the network's residual blocks
    t1: float  # the field's scale is num_blocks / t1, so that the network's h is t1 / num_blocks
    basis: Basis = piecewise_constant

    @property
    def num_blocks(self) -> int:
        """N, how many blocks the network has here."""
        return len(self.paths)

    def times(self, num_steps: int) -> np.ndarray:
        """(num_steps + 1,): where equal steps begin and end."""
        return np.linspace(0, self.t1, num_steps + 1)

    def vector_field(self, t: jax.Array, x: jax.Array, theta: Any) -> jax.Array:
        """f(t, x, theta(t)), of x's shape (N, H, W, C); `diffrax.ODETerm` takes it as it is."""
        return self.slope(x, theta_at(theta, t / self.t1, self.basis))

    def slope(self, x: jax.Array, variables: Any) -> jax.Array:
        """f by the variables of one block, at any time."""
        return self._slope(x, variables)[0]

    def euler(self, theta: Any, x: jax.Array, num_steps: int | None = None) -> tuple[jax.Array, Any]:
        """Euler's method from x(0) to x(t1), and the blocks' batch statistics, which move in training.

        With as many steps as blocks, as by default, this is the network. The statistics are those of each
        step, stacked: to keep them, put them in the place of theta's, or `flaxarch.depth.project` them where
        theta's are coefficients.
        """
        times = self.times(self.num_blocks if num_steps is None else num_steps)
        ts = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))

        def step(x: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
            t0, t1 = ends
            slope, batch_stats = self._slope(x, theta_at(theta, t0 / self.t1, self.basis))
            return x + (t1 - t0).astype(x.dtype) * slope, batch_stats

        return lax.scan(step, x, (ts[:-1], ts[1:]))

    def stack(self, variables: Any) -> Any:
        """The blocks' variables, taken from the network's, on a new first axis."""
        return {
            name: jax.tree.map(_stacked, *(_at(tree, path) for path in self.paths))
            for name, tree in unstack_blocks(variables).items()
        }

    def unstack(self, variables: Any, stacked: Any) -> Any:
        """The network's variables with the blocks' from `stacked`: undoes `stack`."""
        if {len(x) for x in jax.tree.leaves(stacked)} != {self.num_blocks}:
            raise ValueError(f"the variables of {self.num_blocks} blocks are not leaves of that length")
        trees = jax.tree.map(lambda x: x, unstack_blocks(variables))  # new dictionaries of the same arrays
        for name, tree in stacked.items():
            for i, path in enumerate(self.paths):
                *above, last = path.split("/")
                owner = _at(trees[name], "/".join(above))
                if last in owner:
                    owner[last] = jax.tree.map(lambda x, i=i: x[i], tree)
        return trees

    def _slope(self, x: jax.Array, variables: Any) -> tuple[jax.Array, Any]:
        """f, and the block's new batch statistics."""
        sums: list[tuple[jax.Array, jax.Array, jax.Array]] = []

        def add(shortcut: jax.Array, branch: jax.Array, gate: jax.Array | None) -> jax.Array:
            del gate  # none is given
            sums.append((shortcut, branch, shortcut + branch))
            return sums[-1][-1]

        with replace_residual(add):
            y, updated = self.block.apply(variables, x, mutable=["batch_stats"])
        if not sums:
            raise ValueError(
                f"{self.paths[0]} is no vector field: the sum x + F(x) is not inside this module"
            )
        shortcut, branch, total = sums[-1]
        slope = y - x
        if y is total:  # nothing stands behind the sum: the branch, free of a difference's rounding
            slope = branch if shortcut is x else branch + (shortcut - x)
        if self.t1 != self.num_blocks:
            slope = slope * (self.num_blocks / self.t1)
        return slope, updated.get("batch_stats", {})


def flows(model: nn.Module, input_shape: Sequence[int], *, train: bool = False) -> tuple[Flow, ...]:
    """All rows of alike blocks of a residual network for images (H, W, C), in order: its stages as flows.

    Blocks are alike that are the same modules for the same shape, which they keep: of a ResNet a stage's
    blocks, without the first where that changes the shape. A single one is a row too. With `train` they are
    those of the network in training. Raises ValueError where no block is residual.
    """
    residual_blocks(model, input_shape)
    found = blocks(model, input_shape, train=train)
    rows: list[list[int]] = []
    for i, block in enumerate(found):
        if block.input_shape != block.output_shape:
            continue
        if rows and rows[-1][-1] == i - 1 and groups([found[i - 1], block]):
            rows[-1].append(i)
        else:
            rows.append([i])
    return tuple(
        Flow(found[row[0]].modules[0], tuple(found[i].name for i in row), row[0], len(row)) for row in rows
    )


def apply_flows(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    end: Callable[[Flow, jax.Array, Any], jax.Array],
    *,
    train: bool = False,
) -> jax.Array:
    """Logits of a network in which end(flow, x, theta) stands for each row of alike blocks.

    `x` is what the row reads, `theta` the variables of its blocks, stacked, and the result is taken for
    x(t1): by another solver, other steps, theta(t) in another basis. New batch statistics are forgotten.
    """
    found = {flow.paths[0]: flow for flow in flows(model, images.shape[1:], train=train)}
    others = {path for flow in found.values() for path in flow.paths[1:]}

    def watch(module: nn.Module, x: jax.Array, proceed: Callable[[], Any]) -> Any:
        path = "/".join(module.path)
        if path in found:
            return end(found[path], x, found[path].stack(variables))
        return x if path in others else proceed()

    with watch_calls(watch):
        return model_call(unrolled(model), train=train)(variables, images)


def _stacked(*leaves: Any) -> Any:
    return (jnp if any(isinstance(x, jax.Array) for x in leaves) else np).stack(leaves)


def _at(tree: Any, path: str) -> Any:
    """What a tree of dictionaries has at a path; {} where that is nothing."""
    for name in path.split("/") if path else ():
        tree = tree.get(name, {})
    return tree
