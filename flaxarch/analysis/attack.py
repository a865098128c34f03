"""Adversarial images by projected gradient descent: Madry et al. 2018, https://arxiv.org/abs/1706.06083."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from flaxarch.depth.scores import check_labels, cross_entropy

Norm = Literal["linf", "l2"]


def pgd(
    fn: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    radius: ArrayLike,
    norm: Norm = "linf",
    num_steps: int = 20,
    step_size: ArrayLike | None = None,
    low: ArrayLike = 0.0,
    high: ArrayLike = 1.0,
) -> jax.Array:
    """Images within `radius` of the given ones whose cross-entropy is large, (N, H, W, C).

    >>> fn = lambda x: model.apply(variables, normalise(x), train=False)     # pixels in [0, 1] -> logits
    >>> attacked = jax.jit(partial(pgd, fn, radius=8 / 255))(images, labels, key)

    Sec. 2.1 and 5: from a random start in the ball, steps up the gradient, its sign or its direction, each
    followed by the projection onto the ball and onto the range of pixels.

    Args:
      fn: images -> logits (N, num_classes); no image sees another, as in evaluation.
      images: (N, H, W, C), whose pixels lie in [low, high].
      labels: (N,) integers.
      key: draws the start.
      radius: the largest change of a pixel ("linf"), or of an image in Euclidean length ("l2").
      norm: one of these two.
      num_steps: gradients taken.
      step_size: None: 2.5 radius / num_steps, by which the whole ball can be crossed.
      low: the least value of a pixel.
      high: the largest one.
    """
    check_labels(images, labels)
    if norm not in ("linf", "l2"):
        raise ValueError(f"the norm {norm!r} is none of 'linf' and 'l2'")
    size = 2.5 * jnp.asarray(radius) / num_steps if step_size is None else step_size
    radius = jnp.asarray(radius, images.dtype)

    def loss(x: jax.Array) -> jax.Array:
        return cross_entropy(fn(x), labels).sum()

    def step(_: Any, x: jax.Array) -> jax.Array:
        gradient = jax.grad(loss)(x)
        direction = jnp.sign(gradient) if norm == "linf" else _unit(gradient)
        return project(x + jnp.asarray(size, x.dtype) * direction)

    def project(x: jax.Array) -> jax.Array:
        change = x - images
        if norm == "linf":
            change = jnp.clip(change, -radius, radius)
        else:
            change = change * jnp.minimum(1, radius / jnp.maximum(_length(change), _TINY))
        # pixel by pixel, toward the image, whose pixels are in the range: no way out of the ball
        return jnp.clip(images + change, low, high)

    noise_key, length_key = jax.random.split(key)
    if norm == "linf":
        start = jax.random.uniform(noise_key, images.shape, images.dtype, -1, 1)
    else:  # uniform in the ball
        power = 1 / (images.size // len(images))
        lengths = jax.random.uniform(length_key, (len(images), 1, 1, 1), images.dtype) ** power
        start = lengths * _unit(jax.random.normal(noise_key, images.shape, images.dtype))
    return lax.fori_loop(0, num_steps, step, project(images + radius * start))


_TINY = 1e-12


def _length(x: jax.Array) -> jax.Array:
    """(N, 1, 1, 1): of each image."""
    return jnp.sqrt((x * x).sum(axis=(1, 2, 3), keepdims=True))


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(_length(x), _TINY)
