"""The paths of a residual network: Veit, Wilber & Belongie 2016, https://arxiv.org/abs/1605.06431.

A network of n residual blocks has 2^n paths: through each block a path goes by the shortcut or by the branch,
and its length is the number of branches (Sec. 3 and 5).

What is exact is the backward form. With J_i the branch's Jacobian at the point where the network is, and h_i
the shortcut's, 1 where it is the identity, the gradient is multiplied by (h_i + J_i)^T at block i: a sum over
all paths of products of Jacobians. Going forward a branch is not linear, and what a path alone would compute
is not a summand of what the network does. A nonlinearity behind the sum, as relu(x + F(x)) in the ResNets of
2015, multiplies the gradient by its derivative D_i, at the network's own activations, ahead of the choice:
(D_i (h_i + J_i))^T. All paths have it in common, so that the decomposition is as exact; but then the path of
length 0 is no identity. Veit et al. study the networks of 2016, which have no such nonlinearity.
"""

from collections.abc import Sequence
from functools import partial
from itertools import count
from math import comb
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import ArrayLike

from flaxarch.depth.scores import check_labels, cross_entropy
from flaxarch.depth.trunk import model_call, residual_blocks, unrolled
from flaxarch.residual import replace_residual


def path_gradients(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    max_length: int | None = None,
    train: bool = False,
) -> jax.Array:
    """The gradient of each image's loss with respect to the image, by length of path, over all paths.

    Returns (max_length + 1, N, H, W, C): entry k is the sum over all C(n, k) paths of length k, and up to
    `max_length=None`, which is n, they add up to the gradient. One backward pass with one array for each
    length: at block i, g_i[k] = h_i^T g_{i+1}[k] + J_i^T g_{i+1}[k-1]. It costs max_length + 1 backward
    passes with respect to the image, whatever the number of paths.

    Args:
      model: a residual network.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network expects them.
      labels: (N,) integers; the loss is the cross-entropy, summed over the images.
      max_length: of the paths that are told apart; longer ones are left out.
      train: whether batch norm takes the batch's statistics: an image's gradient is then of all losses.
    """
    check_labels(images, labels)
    n = len(residual_blocks(model, images.shape[1:]))
    top = n if max_length is None else max_length
    if not 0 <= top <= n:
        raise ValueError(f"paths through {n} blocks have lengths 0 to {n}, not {top}")
    return _path_gradients(model, variables, images, labels, max_length=top, train=train)


_LENGTHS = "path lengths"  # axis of the cotangents


@partial(jax.jit, static_argnames=("model", "max_length", "train"))
def _path_gradients(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    max_length: int,
    train: bool,
) -> jax.Array:
    def rule(x: jax.Array, y: jax.Array, gate: jax.Array | None) -> jax.Array:
        return _longer_by_branch(x, y if gate is None else gate * y)

    def loss(images: jax.Array) -> jax.Array:
        with replace_residual(rule):
            logits = model_call(model, train=train)(variables, images)
        return cross_entropy(logits, labels).sum()

    value, backward = jax.vjp(loss, images)
    seeds = jnp.zeros(max_length + 1, value.dtype).at[0].set(1)
    return jax.vmap(lambda seed: backward(seed)[0], axis_name=_LENGTHS)(seeds)


@jax.custom_vjp
def _longer_by_branch(x: jax.Array, y: jax.Array) -> jax.Array:
    """x + y, whose gradient goes into the branch as that of paths longer by one."""
    return x + y


def _sum_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    size = lax.axis_size(_LENGTHS)
    moved = lax.ppermute(gradient, _LENGTHS, [(k, (k + 1) % size) for k in range(size)])
    is_first = lax.axis_index(_LENGTHS) == 0  # nothing is shorter; the longest falls out
    return gradient, jnp.where(is_first, jnp.zeros_like(moved), moved)


_longer_by_branch.defvjp(lambda x, y: (x + y, None), _sum_backward)


def gradients_along(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    paths: ArrayLike,
    *,
    train: bool = False,
    chunk_size: int = 32,
) -> jax.Array:
    """The gradient of each image's loss along single paths, as Sec. 5 samples it: (num_paths, N, H, W, C).

    The network runs forward in full; backward, the gradient goes through the branch alone where a path has 1,
    and through the shortcut alone where it has 0. `keep_random(key, n, k, 1000)` draws the paper's paths.

    Args:
      model: a residual network.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network expects them.
      labels: (N,) integers; the loss is the cross-entropy, summed over the images.
      paths: (num_paths, num_blocks) of 0 and 1.
      train: as in `path_gradients`.
      chunk_size: paths at a time.
    """
    check_labels(images, labels)
    n, paths = len(residual_blocks(model, images.shape[1:])), np.asarray(paths, np.float32)
    if paths.ndim != 2 or paths.shape[1] != n:
        raise ValueError(f"paths of shape {paths.shape} do not fit {n} blocks: give (num_paths, {n})")
    found = []
    for start in range(0, len(paths), chunk_size):
        chunk = paths[start : start + chunk_size]
        rest = min(chunk_size, len(paths)) - len(chunk)  # filled, so that all chunks are one program
        padded = np.pad(chunk, ((0, rest), (0, 0)))
        found.append(_along(unrolled(model), variables, images, labels, padded, train=train)[: len(chunk)])
    return jnp.concatenate(found)


@partial(jax.jit, static_argnames=("model", "train"))
def _along(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, paths: ArrayLike, *, train: bool
) -> jax.Array:
    def loss(images: jax.Array, path: jax.Array) -> jax.Array:
        number = count()

        def rule(x: jax.Array, y: jax.Array, gate: jax.Array | None) -> jax.Array:
            return _either(x, y if gate is None else gate * y, path[next(number)])

        with replace_residual(rule):
            logits = model_call(model, train=train)(variables, images)
        return cross_entropy(logits, labels).sum()

    return jax.vmap(lambda path: jax.grad(loss)(images, path))(paths)


@jax.custom_vjp
def _either(x: jax.Array, y: jax.Array, is_branch: jax.Array) -> jax.Array:
    """x + y, whose gradient goes into y where `is_branch` is 1 and into x where it is 0."""
    del is_branch
    return x + y


def _either_backward(is_branch: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    is_branch = is_branch.astype(gradient.dtype)
    return (1 - is_branch) * gradient, is_branch * gradient, jnp.zeros_like(is_branch)


_either.defvjp(lambda x, y, is_branch: (x + y, is_branch), _either_backward)


def path_lengths(num_blocks: int) -> np.ndarray:
    """(num_blocks + 1,): share of the 2^n paths that have length k, C(n, k) / 2^n (Fig. 6a)."""
    return np.array([comb(num_blocks, k) for k in range(num_blocks + 1)], float) / 2.0**num_blocks


def effective_lengths(norms: ArrayLike) -> np.ndarray:
    """(n + 1,): share of each length in the gradient, from the mean norm of one path's (n + 1,) (Fig. 6c).

    The paper's: number of paths times expected norm of one. As paths' gradients may cancel, it is an upper
    bound; for the norm of their exact sum take `path_gradients`.
    """
    norms = np.asarray(norms, np.float64)
    shares = path_lengths(len(norms) - 1) * norms
    return shares / shares.sum()


class Decay(NamedTuple):
    """A line through ln(norm) over the length."""

    rho: float  # factor per block of a path
    r_squared: float


def fit_decay(lengths: Sequence[int], norms: ArrayLike) -> Decay:
    """Least squares of norm = c * rho^length, on logarithms: "decreases exponentially" (Fig. 6b)."""
    given = np.asarray(norms, np.float64)
    if len(given) < 2 or not (given > 0).all():
        raise ValueError("a decay needs norms, all above zero, at two lengths at least")
    logs = np.log(given)
    slope, start = np.polyfit(lengths, logs, 1)
    errors = logs - (slope * np.asarray(lengths) + start)
    return Decay(float(np.exp(slope)), float(1 - errors.var() / logs.var()) if logs.var() else 1.0)


def decayed_lengths(num_blocks: int, rho: float) -> np.ndarray:
    """(n + 1,): shares of the lengths in the gradient if one path of length k carries rho^k.

    C(n, k) rho^k, normalised, is the binomial distribution of n draws with chance rho / (1 + rho).
    """
    return effective_lengths(rho ** np.arange(num_blocks + 1))


def effective_length(num_blocks: int, rho: float) -> float:
    """The mean of `decayed_lengths`: n rho / (1 + rho)."""
    return num_blocks * rho / (1 + rho)


def num_effective_blocks(num_blocks: int, rho: float) -> float:
    """Blocks to keep in a training batch, for paths as long as the effective ones: 2 n rho / (1 + rho).

    Paths through m kept blocks have a mean length of m / 2. Veit et al. train with 23 of 54 (Sec. 5), as
    `keep_random(key, 54, 23, 1)[0]` draws them, for gates: 5.96 % error against 6.10 % of the whole network.
    """
    return 2 * effective_length(num_blocks, rho)
