"""Mixup and cutmix: pairs of images, and their labels, become one, on the devices and inside the step.

Mixup: Zhang et al. 2018, https://arxiv.org/abs/1710.09412. Cutmix: Yun et al. 2019,
https://arxiv.org/abs/1905.04899. As in timm, a batch has one share and one rectangle.

The partner of example i is i xor 1 of the global batch: examples 2k and 2k + 1 are mixed with one another, so
that no device needs another's images as long as its share of the batch is even. (The order of a batch is
random, and so are the pairs.)
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import betaincinv  # JAX brings scipy

from train.config import Config, ConfigError
from train.losses import as_targets


class Mix(NamedTuple):
    """How batches are mixed. An alpha of 0 leaves that way of mixing out."""

    num_classes: int
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0  # that a batch is mixed at all
    cutmix_share: float = 0.5  # of the mixed batches, where both alphas are above 0


def make_mix(config: Config, num_classes: int, num_devices: int) -> Mix | None:
    """What the configuration asks for; None: batches stay as they are. Raises ConfigError on odd shares."""
    if not (config.mixup_alpha or config.cutmix_alpha):
        return None
    if config.batch_size % (2 * num_devices):
        raise ConfigError(
            f"mixup and cutmix pair the images of a device, and batch_size {config.batch_size} does not give "
            f"{num_devices} devices even numbers of them; it has to be a multiple of {2 * num_devices}"
        )
    return Mix(
        num_classes, config.mixup_alpha, config.cutmix_alpha, config.mix_probability, config.cutmix_share
    )


def mix_batch(mix: Mix, batch: dict[str, Any], key: jax.Array) -> dict[str, Any]:
    """The batch with float32 pixels, unscaled, and targets (N, num_classes) in the place of labels.

    `key` is the same for every device. Mixed pixels are, normalised, what mixed normalised images are, for
    the weights of the two add up to one.
    """
    images, targets = batch["image"], as_targets(batch["label"], mix.num_classes)
    weights = mix_weights(mix, key, *images.shape[1:3])
    pixels = images.astype(jnp.float32)
    pixels = weights[None, :, :, None] * pixels + (1 - weights)[None, :, :, None] * _partners(pixels)
    share = weights.mean()
    targets = share * targets + (1 - share) * _partners(targets)
    return batch | {"image": pixels, "label": targets}


def mix_weights(mix: Mix, key: jax.Array, height: int, width: int) -> jax.Array:
    """The weight of each pixel (H, W) of an image in the mixed one; the rest is its partner's.

    All are one number, from Beta(mixup_alpha, mixup_alpha); or 0 in a rectangle and 1 elsewhere. The
    rectangle has the image's proportions and the share 1 - Beta(cutmix_alpha, cutmix_alpha) of its area; its
    centre is anywhere, and what sticks out is cut off.
    """
    u = jax.random.uniform(key, (5,))  # one draw, for each takes long to compile
    is_mixed = u[0] < mix.probability
    is_cut = jnp.bool(mix.cutmix_alpha) & ((not mix.mixup_alpha) | (u[1] < mix.cutmix_share))
    quantiles = jnp.where(is_cut, _beta_quantiles(mix.cutmix_alpha), _beta_quantiles(mix.mixup_alpha))
    share = quantiles[jnp.int32(u[2] * len(quantiles))]
    in_rows = _interval(u[3], height, jnp.sqrt(1 - share))
    in_columns = _interval(u[4], width, jnp.sqrt(1 - share))
    outside = 1.0 - (in_rows[:, None] & in_columns[None, :])
    weights = jnp.where(is_cut, outside, jnp.full((height, width), share))
    return jnp.where(is_mixed, weights, jnp.ones((height, width)))


@lru_cache
def _beta_quantiles(alpha: float) -> np.ndarray:
    """Equally likely values of Beta(alpha, alpha), float32; the device only chooses one.

    jax.random.beta would take longer to compile than a small network.
    """
    number = 4096
    middles = (np.arange(number) + 0.5) / number
    return betaincinv(alpha, alpha, middles).astype(np.float32) if alpha else np.ones(number, np.float32)


def _interval(u: jax.Array, length: int, share: jax.Array) -> jax.Array:
    """(length,) true within share * length places, rounded down, around the one that u in [0, 1) chooses."""
    size = jnp.int32(share * length)
    first = jnp.int32(u * length) - size // 2
    places = jnp.arange(length)
    return (places >= first) & (places < first + size)


def _partners(x: jax.Array) -> jax.Array:
    """Example i xor 1 in the place of each example i of (N, ...)."""
    pairs = x.reshape(-1, 2, *x.shape[1:])
    return pairs[:, ::-1].reshape(x.shape)
