"""Loss and hits of a batch, as sums over its examples: added up over devices and steps, and divided once."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy_sum(
    logits: jax.Array, labels: jax.Array, mask: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Softmax cross-entropy in nats, summed over the examples whose `mask` is 1.

    The target is 1 - label_smoothing on the label plus label_smoothing / num_classes on every class, as in
    Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, Sec. 7, and in torch.
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return jnp.sum(mask * optax.softmax_cross_entropy(logits, targets))


def correct_sum(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Examples with `mask` 1 whose label has the largest logit, counted in float32."""
    return jnp.sum(mask * (jnp.argmax(logits, axis=-1) == labels))
