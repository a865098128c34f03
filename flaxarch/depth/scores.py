"""Accuracy and loss of many subnetworks and reordered networks, in one compiled function.

The studies of Veit et al. 2016, Sec. 4, https://arxiv.org/abs/1605.06431, are rows for it:

>>> model, variables = flaxarch.load("resnet32.th")
>>> num_blocks = len(depth.blocks(model, (32, 32, 3)))
>>> score = functools.partial(depth.evaluate, model, variables, images, labels)
>>> single = score(gates=depth.delete_each(num_blocks))                             # Fig. 3
>>> ten = score(gates=depth.keep_random(key, num_blocks, num_blocks - 10, 100))     # Fig. 5a
>>> orders = depth.swap_random(key, depth.blocks(model, (32, 32, 3)), 5, 100)
>>> reordered, tau = score(orders=orders), depth.kendall_tau(orders)                # Fig. 5b
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import ArrayLike

from flaxarch.depth.gates import apply_gated
from flaxarch.depth.orders import check_orders, reorder
from flaxarch.depth.trunk import model_call


class Scores(NamedTuple):
    """Of each row, over all images."""

    accuracy: jax.Array  # (num_rows,), from 0 to 1
    loss: jax.Array  # (num_rows,), mean cross-entropy in nats


def evaluate(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    gates: ArrayLike | None = None,
    orders: ArrayLike | None = None,
    batch_size: int = 200,
) -> Scores:
    """Scores of a network under each row of gates, of orders, or of both together.

    Compiled once for each number of rows and images.

    Args:
      model: any network.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network expects them.
      labels: (N,) integers.
      gates: (num_rows, num_blocks), for the blocks of `deletable`; None keeps all.
      orders: (num_rows, num_blocks), permutations of the blocks of `blocks`, as `swap_random` gives them;
        None leaves all at their places.
      batch_size: images at a time.
    """
    if gates is not None:
        gates = jnp.asarray(gates, jnp.float32)
    if orders is not None:
        check_orders(model, images.shape[1:], orders)
        orders = jnp.asarray(orders)
    rows = {len(given) for given in (gates, orders) if given is not None}
    if len(rows) > 1:
        raise ValueError(f"gates and orders go together row by row, but have {sorted(rows)} rows")
    check_labels(images, labels)
    return _evaluate(model, variables, images, labels, gates, orders, batch_size=min(batch_size, len(images)))


@partial(jax.jit, static_argnames=("model", "batch_size"))
def _evaluate(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    gates: jax.Array | None,
    orders: jax.Array | None,
    *,
    batch_size: int,
) -> Scores:
    batches = batched(images, labels, batch_size)

    def score(row: tuple[jax.Array | None, jax.Array | None]) -> Scores:
        gates, order = row
        trees = variables if order is None else reorder(model, variables, images.shape[1:], order)

        def on_batch(batch: tuple[jax.Array, jax.Array, jax.Array]) -> Scores:
            images, labels, weights = batch
            if gates is None:
                logits = model_call(model, train=False)(trees, images)
            else:
                logits = apply_gated(model, trees, images, gates)
            return totals(logits, labels, weights)

        return jax.tree.map(lambda x: x.sum(axis=0) / len(images), lax.map(on_batch, batches))

    if gates is None and orders is None:
        return jax.tree.map(lambda x: x[None], score((None, None)))
    return lax.map(score, (gates, orders))


def check_labels(images: jax.Array, labels: jax.Array) -> None:
    """Raise a sentence unless there is one label for each image."""
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"images are (N, H, W, C) and labels (N,), not {tuple(images.shape)} and {tuple(labels.shape)}"
        )


def batched(images: jax.Array, labels: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images, labels and weights (num_batches, batch_size, ...): what fills the last batch weighs 0."""
    rest = -len(images) % batch_size

    def split(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, rest), *((0, 0),) * (x.ndim - 1)))
        return padded.reshape(-1, batch_size, *x.shape[1:])

    return split(images), split(labels), split(jnp.ones(len(images)))


def totals(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Scores:
    """Weighted sums over the images of a batch; logits are (..., N, num_classes)."""
    right = logits.argmax(axis=-1) == jnp.broadcast_to(labels, logits.shape[:-1])
    return Scores(
        (right * jnp.broadcast_to(weights, right.shape)).sum(axis=-1),
        (cross_entropy(logits, labels) * jnp.broadcast_to(weights, right.shape)).sum(axis=-1),
    )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """In nats: logits (..., N, num_classes), labels (N,) -> (..., N)."""
    chosen = jnp.broadcast_to(labels, logits.shape[:-1])[..., None]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=-1)[..., 0]
