"""What residual blocks do to an estimate: each moves it a little, and down the gradient of the loss.

Greff et al. 2017, https://arxiv.org/abs/1612.07771, see the blocks of a stage as refining one estimate.
Jastrzebski et al. 2018, https://arxiv.org/abs/1710.04773, measure it: the norm of F(x) over that of x, the
cosine of F(x) and the loss's gradient, and the accuracy of classifiers behind the blocks.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from flaxarch.depth.chain import Chain
from flaxarch.depth.scores import batched, check_labels, cross_entropy
from flaxarch.depth.trunk import residual_blocks


class Refinement(NamedTuple):
    """Of each residual block h(x) + F(x), the mean over all images."""

    norm_ratio: jax.Array  # (num_blocks,): ||F(x)|| / ||h(x)||; h(x) is x, but where the shape changes
    cosine: jax.Array  # (num_blocks,): of F(x) and -dL/dx; nan where the shape changes


def refinement(
    model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, *, batch_size: int = 200
) -> Refinement:
    """How far each block of a residual network moves its input, and how much of that is down the gradient.

    Norms and cosines are of one image's whole array (H, W, C), and the gradient of its cross-entropy with
    respect to what the block reads, x, through shortcut and branch, in evaluation. Where a block changes the
    shape, F(x) and x are of two spaces, and there is no cosine. An array of zeros, whose direction is none,
    has a cosine of 0.

    Args:
      model: a residual network.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network expects them.
      labels: (N,) integers.
      batch_size: images at a time.
    """
    check_labels(images, labels)
    residual_blocks(model, images.shape[1:])
    _, height, width, channels = images.shape
    chain = Chain(model, (height, width, channels))
    batches = batched(images, labels, min(batch_size, len(images)))
    sums = [_refinement(chain, variables, *batch) for batch in zip(*batches, strict=True)]
    return jax.tree.map(lambda *x: sum(x) / len(images), *sums)


@partial(jax.jit, static_argnames="chain")
def _refinement(
    chain: Chain, variables: Any, images: jax.Array, labels: jax.Array, weights: jax.Array
) -> Refinement:
    """Sums over the images of a batch."""
    n, states = len(chain.blocks), chain.states(variables, images)

    def loss(x: jax.Array) -> jax.Array:
        return cross_entropy(chain.run(variables, x, start=n), labels).sum()

    gradient, found = jax.grad(loss)(states[-1]), []
    for i in reversed(range(n)):
        x = states[i]
        _, backward = jax.vjp(partial(chain.run, variables, start=i, stop=i + 1), x)
        (gradient,) = backward(gradient)
        branch, shortcut = chain.branch(variables, x, i), chain.shortcut(variables, x, i)
        ratio = _over(_norm(branch), _norm(shortcut))
        cosine = jnp.full(len(x), jnp.nan)
        if branch.shape == x.shape:
            inner = -(branch * gradient).reshape(len(x), -1).sum(axis=-1)
            cosine = _over(inner, _norm(branch) * _norm(gradient))
        found.append((weights @ ratio, weights @ cosine))
    return Refinement(*map(jnp.stack, zip(*found[::-1], strict=True)))


def _norm(x: jax.Array) -> jax.Array:
    """Of each image: (N, ...) -> (N,)."""
    return jnp.linalg.norm(x.reshape(len(x), -1), axis=-1)


def _over(x: jax.Array, y: jax.Array) -> jax.Array:
    """x / y, and 0 where y is 0."""
    return jnp.where(y == 0, 0, x / jnp.where(y == 0, 1, y))


class Probe(NamedTuple):
    """A linear classifier: features @ kernel + bias are its scores."""

    kernel: np.ndarray  # (C, num_classes)
    bias: np.ndarray  # (num_classes,)


def probe_accuracy(
    model: nn.Module,
    variables: Any,
    train: tuple[jax.Array, jax.Array],
    test: tuple[jax.Array, jax.Array],
    *,
    ridge: float = 1e-3,
    batch_size: int = 200,
) -> np.ndarray:
    """Accuracy over depth, (num_blocks + 1,), of linear probes: Alain & Bengio 2016, arXiv 1610.01644.

    Entry i is that of the probe on x_i, which block i reads, averaged over height and width; the last one is
    on what the last block leaves. Any network that `Chain` can cut has probes; the network stays as it is.

    Args:
      model: the network.
      variables: its `{"params": ..., "batch_stats": ...}`.
      train: images (N, H, W, C) and labels (N,), on which the probes are fitted.
      test: images and labels, on which they are measured.
      ridge: as in `fit_probe`.
      batch_size: images at a time.
    """
    for images, labels in (train, test):
        check_labels(images, labels)
    num_classes = 1 + max(int(jnp.max(labels)) for _, labels in (train, test))
    fitted, measured = (
        pooled_states(model, variables, images, batch_size=batch_size) for images, _ in (train, test)
    )
    accuracies = []
    for x, y in zip(fitted, measured, strict=True):
        probe = fit_probe(x, train[1], num_classes, ridge=ridge)
        accuracies.append(np.mean((y @ probe.kernel + probe.bias).argmax(axis=-1) == np.asarray(test[1])))
    return np.array(accuracies)


def pooled_states(
    model: nn.Module, variables: Any, images: jax.Array, *, batch_size: int = 200
) -> list[np.ndarray]:
    """What each block reads, and what the last one leaves, averaged over height and width: each (N, C_i)."""
    _, height, width, channels = images.shape
    chain = Chain(model, (height, width, channels))
    batches, *_ = batched(images, jnp.zeros(len(images)), min(batch_size, len(images)))
    found = [_pooled_states(chain, variables, batch) for batch in batches]
    return [np.concatenate(parts)[: len(images)] for parts in zip(*found, strict=True)]


@partial(jax.jit, static_argnames="chain")
def _pooled_states(chain: Chain, variables: Any, images: jax.Array) -> list[jax.Array]:
    return [x.mean(axis=tuple(range(1, x.ndim - 1))) for x in chain.states(variables, images)]


def fit_probe(features: ArrayLike, labels: ArrayLike, num_classes: int, *, ridge: float = 1e-3) -> Probe:
    """The linear classifier of features (N, C) that minimises a ridge regression to one-hot labels.

    A closed form, in float64: nothing is drawn and nothing has to converge, so that probes at all depths are
    fitted equally well, which steps of a logistic regression would not promise. What is minimised is the mean
    over the images of the squared error, plus `ridge` times the squared norm of the kernel, for features
    brought to mean 0 and variance 1: their units do not count. The bias is free.
    """
    x, labels = np.asarray(features, np.float64), np.asarray(labels)
    if x.ndim != 2 or labels.shape != x.shape[:1]:
        raise ValueError(f"a probe takes features (N, C) and labels (N,), not {x.shape} and {labels.shape}")
    if not labels.size or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"a probe of {num_classes} classes takes labels from 0 to {num_classes - 1}")
    if ridge <= 0:
        raise ValueError(f"ridge is {ridge}: it is above zero, so that there is one solution")
    mean, std = x.mean(axis=0), x.std(axis=0)
    std = np.where(std <= 1e-6 * np.abs(mean), 1, std)  # constant to float32's rounding: it says nothing
    x, y = (x - mean) / std, np.eye(num_classes)[labels]
    gram = x.T @ x / len(x) + ridge * np.eye(x.shape[1])
    kernel = np.linalg.solve(gram, x.T @ (y - y.mean(axis=0)) / len(x)) / std[:, None]
    return Probe(kernel, y.mean(axis=0) - mean @ kernel)
