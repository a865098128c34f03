"""The sum that makes a network residual, and its gates.

x + g * F(x): gates of one are the plain network, Bernoulli draws stochastic depth, a zero deletes a block.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

# (shortcut x, branch y = F(x), gate or None) -> what the block goes on with
Sum = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]
_sum: ContextVar[Sum | None] = ContextVar("sum", default=None)
_skipper: ContextVar[object | None] = ContextVar("skipper", default=None)  # the innermost `skip_dropped`


def residual(x: jax.Array, y: jax.Array, gate: jax.Array | None) -> jax.Array:
    """The sum that makes a network residual: shortcut `x`, branch `y` = F(x), and x + g * F(x)."""
    if (replaced := _sum.get()) is not None:
        return replaced(x, y, gate)
    return x + y if gate is None else x + gate * y


@contextmanager
def replace_residual(new: Sum) -> Iterator[None]:
    """While it is open, `new` stands in for `residual` in every network: what `flaxarch.depth` studies.

    To be opened inside of what JAX traces: a function that was compiled before keeps the sum that it has.
    """
    before = _sum.set(new)
    try:
        yield
    finally:
        _sum.reset(before)


@contextmanager
def skip_dropped() -> Iterator[None]:
    """While it is open, a block whose gate is zero is not computed: stochastic depth that saves time.

    Huang et al. 2016, Sec. 3, as in the authors' code: a dropped block's batch statistics stay as they are,
    where gates alone, which multiply by zero what was computed, let them move. One gate for all images of a
    batch decides by a conditional; one for each image still multiplies, as does any under `jax.vmap`. With
    batch norm over devices, all of them must have the same gates. Blocks are the modules that a network gives
    an input and a gate: where the sum is the network's own, or blocks run in `scan_blocks`, gates multiply.
    """
    me = object()

    def call(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        block: nn.Module = context.module
        is_inner = context.method_name == "__call__" and block.path  # `alone` has no path
        is_block = is_inner and len(args) == 2 and getattr(args[1], "size", 0) == 1
        if not is_block or block.is_initializing() or _skipper.get() is not me:
            return method(*args, **kwargs)
        alone, variables = block.clone(parent=None), block.variables
        rngs: Any = {"dropout": block.make_rng("dropout")} if block.has_rng("dropout") else None

        def run(x: jax.Array, gate: jax.Array) -> tuple[jax.Array, Any]:
            y, updated = alone.apply(variables, x, gate, rngs=rngs, mutable=["batch_stats"])
            return y, updated.get("batch_stats", {})

        def skip(x: jax.Array, gate: jax.Array) -> tuple[jax.Array, Any]:
            with replace_residual(lambda x, y, gate: x):  # so that nothing needs the branch
                y, _ = run(x, gate)
            return y, variables.get("batch_stats", {})

        x, gate = args
        y, updated = lax.cond(gate.reshape(()) != 0, run, skip, x, gate)
        if block.is_mutable_collection("batch_stats"):
            for name, tree in updated.items():
                block.put_variable("batch_stats", name, tree)
        return y

    before = _skipper.set(me)
    try:
        with nn.intercept_methods(call):
            yield
    finally:
        _skipper.reset(before)


def is_skipping() -> bool:
    """Whether `skip_dropped` is open: who intercepts calls opens it anew within, to see such blocks too."""
    return _skipper.get() is not None


def linear_survival_probs(num_blocks: int, last: float) -> jax.Array:
    """Chance that each block is kept, falling linearly to `last`: p_l = 1 - l / L * (1 - p_L), l from 1.

    Huang et al. 2016 (stochastic depth), equation 4.
    """
    return 1 - jnp.arange(1, num_blocks + 1) / num_blocks * (1 - last)


def block_gates(
    network: Any, gates: jax.Array | None, *, num_blocks: int, train: bool
) -> list[jax.Array | None]:
    """One gate per residual block, shaped to multiply its branch (N, H, W, C); None is a gate of one.

    Args:
      network: has the field `survival_prob`, the chance that the last block is kept in training, which may
        be traced; 1 for no stochastic depth. One draw per block and batch, from the PRNG stream "gates"; in
        evaluation a block's gate is its chance to be kept (Huang et al. 2016, Sec. 3).
      gates: given by the caller, (num_blocks,) or (num_blocks, N); they replace stochastic depth.
      num_blocks: number of residual blocks in the network.
      train: whether the network trains.
    """
    if gates is not None:
        gates = jnp.asarray(gates, network.dtype)
        if gates.ndim not in (1, 2) or len(gates) != num_blocks:
            raise ValueError(
                f"gates of shape {gates.shape} do not fit this network of {num_blocks} residual blocks: "
                f"give ({num_blocks},), or ({num_blocks}, N) for one gate per block and image"
            )
    elif network.is_initializing() or _is_one(network.survival_prob):
        return [None] * num_blocks
    else:
        gates = linear_survival_probs(num_blocks, network.survival_prob)
        if train:
            gates = jax.random.bernoulli(network.make_rng("gates"), gates)
        gates = gates.astype(network.dtype)
    return list(gates.reshape(num_blocks, -1, 1, 1, 1))


def _is_one(prob: float | jax.Array) -> bool:
    """Whether the chance is 1 for certain, which no traced one is."""
    return not isinstance(prob, jax.Array) and prob == 1
