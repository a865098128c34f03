"""Which features a DenseNet's layers reuse: Huang et al. 2017, Sec. 5, https://arxiv.org/abs/1608.06993.

In a dense block every layer reads the features of all before it. A connection is what one reader has of one
source. What it weighs is the mean absolute weight of the reader's kernel on the source's features, as in the
paper; what it does is the damage of cutting it. A cut connection's features, normalised and activated, are
zeros where that reader reads them, and stay what they are for all others.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from flaxarch.depth.scores import Scores, batched, check_labels, totals
from flaxarch.depth.trunk import model_call
from flaxarch.models.densenet import DenseNet


class Connection(NamedTuple):
    """A source of features in a dense block, and one that reads it."""

    block: int  # from 1
    source: int  # a layer, from 1; 0 is what the dense block reads
    reader: int  # a layer; after the last one the transition, and in the last block the classifier


def connections(model: DenseNet) -> tuple[Connection, ...]:
    """All connections of a DenseNet, by block, reader and source: one for each gate of `apply_connected`.

    A block of L layers has (L + 1) (L + 2) / 2.
    """
    return tuple(
        Connection(block, source, reader)
        for block, num_layers in enumerate(model.block_sizes, start=1)
        for reader in range(1, num_layers + 2)
        for source in range(reader)
    )


def as_matrices(model: DenseNet, values: ArrayLike) -> list[np.ndarray]:
    """One value for each connection, laid out as in Fig. 5: of each dense block (L + 1, L + 1).

    Entry [s, l - 1] is that of source s and reader l: the first row is the block's input, the last column
    the transition or the classifier; what is no connection is nan. Values are left as they are,
    and the paper's colours run from 0 to 1.
    """
    values = _per_connection(model, values)
    matrices = [np.full((n + 1, n + 1), np.nan) for n in model.block_sizes]
    for (block, source, reader), value in zip(connections(model), values, strict=True):
        matrices[block - 1][source, reader - 1] = value
    return matrices


def connection_weights(model: DenseNet, params: Any, *, fold_scale: bool = False) -> np.ndarray:
    """Mean absolute weight of each connection, (num_connections,): Fig. 5.

    It is the l1 norm of the part of the reader's kernel that multiplies the source's features, over its
    number of weights. A bottleneck's kernel is that of its 1x1 convolution.

    Args:
      model: a DenseNet.
      params: its parameters.
      fold_scale: with the absolute scale of the batch norm ahead of the kernel in each weight, as if the norm
        had none: features that reach a kernel small weigh less than they seem to. The paper leaves it out.
    """
    found = []
    for reader in _readers(model):
        kernel = np.abs(np.asarray(_leaf(params, reader.kernel), np.float64))
        mean = kernel.mean(axis=tuple(axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2))
        if fold_scale and "scale" in _leaf(params, reader.norm):
            mean = mean * np.abs(np.asarray(_leaf(params, reader.norm)["scale"], np.float64))
        first = len(mean) - reader.num_layers * model.growth_rate
        parts = np.split(mean, first + model.growth_rate * np.arange(reader.num_layers))
        found.extend(part.mean() for part in parts)
    return np.array(found)


def apply_connected(model: DenseNet, variables: Any, images: jax.Array, gates: ArrayLike) -> jax.Array:
    """Logits of a DenseNet under gates (num_connections,), traced: 1 keeps a connection, 0 cuts it.

    A gate multiplies the reader's weights on the source's features, which is as much as multiplying those
    features behind the reader's own batch norm and ReLU.
    """
    num_gates = len(connections(model))
    gates = jnp.asarray(gates, jnp.float32)
    if gates.shape != (num_gates,):
        raise ValueError(
            f"gates of shape {gates.shape} do not fit this DenseNet of {num_gates} connections: "
            f"give ({num_gates},)"
        )
    params, start = variables["params"], 0
    for reader in _readers(model):
        kernel, num_sources = _leaf(params, reader.kernel), reader.num_layers + 1
        first = kernel.shape[-2] - reader.num_layers * model.growth_rate
        sizes = np.array([first, *[model.growth_rate] * reader.num_layers])
        mask = gates[start : start + num_sources][np.repeat(np.arange(num_sources), sizes)]
        mask = mask.reshape(*(1,) * (kernel.ndim - 2), -1, 1).astype(kernel.dtype)
        params, start = _with_leaf(params, reader.kernel, kernel * mask), start + num_sources
    return model_call(model, train=False)({**variables, "params": params}, images)


def evaluate_connections(
    model: DenseNet,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    gates: ArrayLike,
    *,
    batch_size: int = 200,
) -> Scores:
    """Accuracy and loss of a DenseNet under each row of gates.

    >>> n = len(depth.connections(model))
    >>> rows = np.concatenate([np.ones((1, n)), depth.delete_each(n)])    # the network, and each cut
    >>> loss = depth.evaluate_connections(model, variables, images, labels, rows).loss
    >>> damage = depth.as_matrices(model, loss[1:] - loss[0])             # Fig. 5's causal version

    One compiled function for each number of rows and images.

    Args:
      model: a DenseNet.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network expects them.
      labels: (N,) integers.
      gates: (num_rows, num_connections), as in `apply_connected`.
      batch_size: images at a time.
    """
    check_labels(images, labels)
    gates, num_gates = jnp.asarray(gates, jnp.float32), len(connections(model))
    if gates.ndim != 2 or gates.shape[1] != num_gates:
        raise ValueError(f"rows of gates are (num_rows, {num_gates}), not {gates.shape}")
    return _evaluate(model, variables, images, labels, gates, batch_size=min(batch_size, len(images)))


@partial(jax.jit, static_argnames=("model", "batch_size"))
def _evaluate(
    model: DenseNet,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    gates: jax.Array,
    *,
    batch_size: int,
) -> Scores:
    batches = batched(images, labels, batch_size)

    def score(row: jax.Array) -> Scores:
        def on_batch(batch: tuple[jax.Array, jax.Array, jax.Array]) -> Scores:
            images, labels, weights = batch
            return totals(apply_connected(model, variables, images, row), labels, weights)

        return jax.tree.map(lambda x: x.sum(axis=0) / len(images), lax.map(on_batch, batches))

    return lax.map(score, gates)


def delete_sources(model: DenseNet) -> tuple[tuple[tuple[int, int], ...], np.ndarray]:
    """Each source cut from all its readers: ((block, source), ...) and rows of gates for them."""
    found = connections(model)
    sources = tuple(dict.fromkeys((x.block, x.source) for x in found))
    cut = [[(x.block, x.source) == source for x in found] for source in sources]
    return sources, 1 - np.array(cut, np.float32)


class _Reader(NamedTuple):
    """Where a reader's parameters are; it reads a block's input and so many layers."""

    num_layers: int
    norm: Sequence[str]
    kernel: Sequence[str]


def _readers(model: DenseNet) -> list[_Reader]:
    """In the order of `connections`."""
    readers, num_blocks = [], len(model.block_sizes)
    for i, num_layers in enumerate(model.block_sizes, start=1):
        names = [f"block{i}_layer{j}" for j in range(1, num_layers + 1)]
        readers += [_Reader(j, (name, "norm1"), (name, "conv1", "kernel")) for j, name in enumerate(names)]
        name = f"transition{i}"
        last = _Reader(num_layers, (name, "norm"), (name, "conv", "kernel"))
        readers.append(last if i < num_blocks else _Reader(num_layers, ("norm5",), (model.head, "kernel")))
    return readers


def _per_connection(model: DenseNet, values: ArrayLike) -> np.ndarray:
    values, num_values = np.asarray(values), len(connections(model))
    if values.shape != (num_values,):
        raise ValueError(f"values of shape {values.shape} are not one for each of {num_values} connections")
    return values


def _leaf(tree: Any, path: Sequence[str]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _with_leaf(tree: Any, path: Sequence[str], leaf: Any) -> Any:
    """The tree with one leaf in the place of another."""
    name, *rest = path
    return {**tree, name: _with_leaf(tree[name], rest, leaf) if rest else leaf}
