"""All 2^n subnetworks of a network, and what they say of its blocks: interactions, Shapley values.

The unravelled view of Veit, Wilber & Belongie 2016, Sec. 3, https://arxiv.org/abs/1605.06431, in full: not a
sample of the ensemble, but all of it.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import ArrayLike

from flaxarch.depth.gates import replace_layers
from flaxarch.depth.scores import Scores, batched, check_labels, totals
from flaxarch.depth.trunk import deletable, model_call, unrolled
from flaxarch.residual import replace_residual

MAX_BLOCKS = 12


def subnetworks(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    batch_size: int | None = None,
) -> Scores:
    """Scores of all 2^n subnetworks, in the order of `subsets(n)`, of a network of n <= 12 blocks to delete.

    Equal to `evaluate(..., gates=subsets(n))`, for an n-th of its work: two subnetworks that agree on their
    first blocks share these. Each block doubles the batch, which goes on without it and with it.

    Args:
      model: any network of 1 to 12 blocks that `deletable` finds.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network expects them.
      labels: (N,) integers.
      batch_size: images at a time. At the network's end each is there 2^n times; None is 4096 / 2^n.

    Raises ValueError where there are more blocks, and where something else than the network's trunk goes
    around a block, as in a dual path network: there, gates are the way.
    """
    model = unrolled(model)
    check_labels(images, labels)
    n = len(deletable(model, images.shape[1:]))
    if n > MAX_BLOCKS:
        raise ValueError(
            f"{n} blocks have 2^{n} subnetworks, and {MAX_BLOCKS} are the most to try out in full: draw some "
            "by `keep_random`"
        )
    batch_size = min(len(images), batch_size or max(1, 4096 // 2**n))
    return _subnetworks(model, variables, images, labels, batch_size=batch_size)


@partial(jax.jit, static_argnames=("model", "batch_size"))
def _subnetworks(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, batch_size: int
) -> Scores:
    def on_batch(batch: tuple[jax.Array, jax.Array, jax.Array]) -> Scores:
        images, labels, weights = batch
        return totals(all_logits(model, variables, images), labels, weights)

    sums = lax.map(on_batch, batched(images, labels, batch_size))
    return jax.tree.map(lambda x: x.sum(axis=0) / len(images), sums)


def all_logits(model: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    """Logits (2^n, N, num_classes) of all subnetworks, in the order of `subsets(n)`."""
    found = deletable(model, images.shape[1:])

    def both(x: jax.Array, y: jax.Array, gate: jax.Array | None) -> jax.Array:
        return jnp.concatenate([x, x + y if gate is None else x + gate * y])

    def mix(i: int, x: jax.Array, y: jax.Array) -> jax.Array:
        del i
        return jnp.concatenate([x.astype(y.dtype), y])

    replaced = replace_residual(both) if found[0].is_residual else replace_layers(found, mix)
    try:
        with replaced:
            logits = model_call(model, train=False)(variables, images)
    except TypeError as error:
        raise ValueError(
            f"more than the residual sum goes around the blocks of this {type(model).__name__}, so that its "
            "subnetworks share no blocks: evaluate them by gates"
        ) from error
    return logits.reshape(2 ** len(found), len(images), *logits.shape[1:])


def interactions(values: ArrayLike) -> np.ndarray:
    """Walsh-Hadamard coefficients (2^n,) of values of all subnetworks (2^n,), in the order of `subsets(n)`.

    values[r] is the sum over all S of interactions[S] times the product over the blocks in S of +1 where
    subnetwork r keeps the block and -1 where not; S as a number has its blocks' bits set. Those of single
    blocks are half the mean effect of keeping them; those of more are zero if blocks do not depend on each
    other.
    """
    coefficients, n = _cube(values)
    for axis in range(n):
        without, kept = np.moveaxis(coefficients, axis, 0)
        coefficients = np.stack([kept + without, kept - without], axis) / 2
    return coefficients.reshape(-1)


def variance_by_order(values: ArrayLike) -> np.ndarray:
    """(n + 1,): share of the variance over all subnetworks that is due to interactions of k blocks.

    They add up to 1, and the first, of no block, is 0. The share of orders 1 and 2 is what Veit et al. call
    paths that "do not strongly depend on each other", as a number.
    """
    squares = interactions(values) ** 2
    n = len(squares).bit_length() - 1
    orders = np.bitwise_count(np.arange(2**n))
    shares = np.bincount(orders, np.where(orders > 0, squares, 0), minlength=n + 1)
    if not shares.any():
        raise ValueError("all subnetworks have the same value: there is no variance to share")
    return shares / shares.sum()


def shapley(values: ArrayLike) -> np.ndarray:
    """(n,): each block's exact Shapley value, from the values (2^n,) of all subnetworks.

    The mean gain by adding the block, over all orders in which the network may be put together (Shapley
    1953); they add up to the value of the whole network less that of the one without blocks.
    """
    cube, n = _cube(values)
    before = np.indices(cube.shape).sum(axis=0) if n else np.zeros(())  # blocks in the subnetwork
    found = np.empty(n)
    for axis in range(n):
        gains = np.diff(cube, axis=axis)
        sizes = np.take(before, [0], axis=axis)
        weights = np.vectorize(lambda s: math.factorial(s) * math.factorial(n - 1 - s))(sizes)
        found[n - 1 - axis] = (gains * weights).sum() / math.factorial(n)
    return found


def _cube(values: ArrayLike) -> tuple[np.ndarray, int]:
    """Values as an array with one axis of two per block, the last block's first; and the number of blocks."""
    given = np.asarray(values, np.float64)
    n = len(given).bit_length() - 1 if given.ndim == 1 else -1
    if n < 0 or len(given) != 2**n:
        raise ValueError(f"values of all subnetworks are (2^n,), not of shape {given.shape}")
    return given.reshape((2,) * n), n
