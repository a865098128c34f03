"""Losses and hits of a batch, as sums over its examples: added up over devices and steps, and divided once.

Labels are integers (N,) or targets (N, num_classes), such as mixed labels, whose rows add up to one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train.config import Config

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (logits, labels, mask) -> sum over examples


class Distillation(NamedTuple):
    """Learning from the outputs of another network, beside the labels.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531.
    """

    teacher: Callable[[Any, jax.Array], jax.Array]  # (its variables, pixels (N, H, W, C)) -> its logits
    weight: float  # of the teacher's outputs in the loss; that of the labels is the rest
    temperature: float


def make_loss(config: Config) -> Loss:
    """The loss of the labels that the configuration asks for, in training."""
    smoothing = config.label_smoothing
    if config.loss == "bce":
        return partial(binary_cross_entropy_sum, label_smoothing=smoothing, threshold=config.bce_threshold)
    return partial(cross_entropy_sum, label_smoothing=smoothing)


def as_targets(labels: jax.Array, num_classes: int) -> jax.Array:
    """Labels (N,) as one-hot targets (N, num_classes) in float32; targets as they are."""
    return labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def cross_entropy_sum(
    logits: jax.Array, labels: jax.Array, mask: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Softmax cross-entropy in nats, summed over the examples whose `mask` is 1.

    The target is 1 - label_smoothing on the label plus label_smoothing / num_classes on every class, as in
    Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, Sec. 7, and in torch.
    """
    targets = optax.smooth_labels(as_targets(labels, logits.shape[-1]), label_smoothing)
    return jnp.sum(mask * optax.softmax_cross_entropy(logits, targets))


def binary_cross_entropy_sum(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    label_smoothing: float = 0.0,
    threshold: float | None = None,
) -> jax.Array:
    """Sigmoid cross-entropy of every class, in nats, averaged over classes and summed over examples.

    As in timm, with which Wightman et al. 2021, https://arxiv.org/abs/2110.00476, trained: targets are
    smoothed as for a softmax; with `threshold`, those above it then are 1 and the others 0, so that both
    labels of a mixed image are wanted in full.
    """
    targets = optax.smooth_labels(as_targets(labels, logits.shape[-1]), label_smoothing)
    if threshold is not None:
        targets = (targets > threshold).astype(targets.dtype)
    return jnp.sum(mask * optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1))


def distillation_sum(
    logits: jax.Array, teacher_logits: jax.Array, mask: jax.Array, temperature: float
) -> jax.Array:
    """Kullback-Leibler divergence of the outputs from the teacher's, both at `temperature`, times its square.

    The square keeps the gradient's size at every temperature (Hinton et al. 2015, Sec. 2). Summed over the
    examples whose `mask` is 1; zero where the logits are equal.
    """
    log_probs = jax.nn.log_softmax(logits / temperature)
    log_wanted = jax.nn.log_softmax(teacher_logits / temperature)
    divergence = jnp.sum(jnp.exp(log_wanted) * (log_wanted - log_probs), axis=-1)
    return temperature**2 * jnp.sum(mask * divergence)


def correct_sum(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Examples with `mask` 1 whose label has the largest logit, counted in float32.

    Of a mixed label the larger part counts.
    """
    main = jnp.argmax(labels, axis=-1) if labels.ndim == 2 else labels
    return jnp.sum(mask * (jnp.argmax(logits, axis=-1) == main))
