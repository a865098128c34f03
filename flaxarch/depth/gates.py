"""Networks without some of their blocks: Veit, Wilber & Belongie, NIPS 2016, https://arxiv.org/abs/1605.06431.

A subnetwork is a row of gates, one for each block that may be deleted: 1 keeps it, 0 deletes it. A block
with a shortcut becomes the shortcut (Sec. 4.1). Of a network without shortcuts a layer is deleted whose input
and output shapes agree, with its norm; the activation behind it stays, which is nothing where both are ReLUs.
Gates are traced, so that one compiled function serves all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxarch.depth.trunk import Block, deletable, model_call, watch_calls


def apply_gated(
    model: nn.Module, variables: Any, images: jax.Array, gates: jax.Array, *, train: bool = False
) -> jax.Array:
    """Logits of any network under `gates`, (num_blocks,) or (num_blocks, N), for its deletable blocks.

    Of a residual block x + g * F(x) is left, of another (1 - g) * x + g * F(x).
    """
    found = deletable(model, images.shape[1:])
    if found[0].is_residual:
        return model_call(model, train=train)(variables, images, gates=gates)
    gates = jnp.asarray(gates, images.dtype)
    if gates.ndim not in (1, 2) or len(gates) != len(found):
        raise ValueError(
            f"gates of shape {gates.shape} do not fit this network of {len(found)} layers to delete: "
            f"give ({len(found)},), or ({len(found)}, N) for one gate per layer and image"
        )

    def mix(i: int, x: jax.Array, y: jax.Array) -> jax.Array:
        gate = gates[i].reshape(-1, *(1,) * (x.ndim - 1))
        return ((1 - gate) * x + gate * y).astype(y.dtype)

    with replace_layers(found, mix):
        return model_call(model, train=train)(variables, images)


@contextmanager
def replace_layers(
    found: Sequence[Block], mix: Callable[[int, jax.Array, jax.Array], jax.Array]
) -> Iterator[None]:
    """While it is open, mix(i, x, F(x)) stands in for what block i leaves, of a network without sums."""
    first = {block.paths[0]: i for i, block in enumerate(found)}
    last = {block.paths[-1]: i for i, block in enumerate(found)}
    read: dict[int, jax.Array] = {}

    def watch(module: nn.Module, x: jax.Array, proceed: Callable[[], Any]) -> Any:
        path = "/".join(module.path)
        if path in first:
            read[first[path]] = x
        y = proceed()
        return mix(last[path], read[last[path]], y) if path in last else y

    with watch_calls(watch):
        yield


def delete_each(num_blocks: int) -> np.ndarray:
    """(num_blocks, num_blocks): row i is without block i."""
    return 1 - np.eye(num_blocks, dtype=np.float32)


def keep_random(key: jax.Array, num_blocks: int, num_kept: int, num_draws: int) -> jax.Array:
    """(num_draws, num_blocks): in each row `num_kept` blocks, of equal chance, are kept.

    To delete k at random, keep num_blocks - k. As training gates, a fresh row for each batch, these are
    Sec. 5's "effective paths" (see `flaxarch.depth.paths.num_effective_blocks`).
    """
    if not 0 <= num_kept <= num_blocks:
        raise ValueError(f"of {num_blocks} blocks 0 to {num_blocks} can be kept, not {num_kept}")
    return _keep_random(key, num_kept, num_blocks=num_blocks, num_draws=num_draws)


@partial(jax.jit, static_argnames=("num_blocks", "num_draws"))
def _keep_random(key: jax.Array, num_kept: int, *, num_blocks: int, num_draws: int) -> jax.Array:
    ranks = jax.random.uniform(key, (num_draws, num_blocks)).argsort(axis=-1).argsort(axis=-1)
    return (ranks < num_kept).astype(jnp.float32)


def subsets(num_blocks: int) -> np.ndarray:
    """(2^num_blocks, num_blocks): all subnetworks; row r keeps block i where bit i of r is set."""
    return (np.arange(2**num_blocks)[:, None] >> np.arange(num_blocks)[None] & 1).astype(np.float32)
