"""Which parts of an image a class needs: the image with a patch of it hidden, patch by patch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxarch.explain.maps import class_logits, logits
from flaxarch.explain.program import Array


def occlusion(
    model: nn.Module,
    variables: Any,
    images: Array,
    classes: Array | None = None,
    *,
    size: int | None = None,
    stride: int | None = None,
    fill: float = 0.0,
    batch_size: int = 8,
) -> jax.Array:
    """Occlusion maps: (N, H, W), by how much a class's logit falls where a patch hides the image.

    Zeiler & Fergus 2014, Sec. 4.2, https://arxiv.org/abs/1311.2901, who show the class's probability. A pixel
    has the mean over the patches that hide it; it is below zero where hiding it helps the class. One forward
    pass for each patch, and one without: 50 where the image's sides are multiples of 8 and nothing else is
    asked for.

    Args:
      model: any network. Of one for segmentation, the class's logit is its mean over the image.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network reads them.
      classes: (N,) whole numbers; None: the likeliest class of each image.
      size: pixels of a patch's sides; None: a quarter of the shorter side.
      stride: pixels from a patch to the next, at most `size`; None: half of `size`.
      fill: what the patch shows; zero is the mean colour where the network's images are normalised.
      batch_size: patches that go through the network together, of all images.
    """
    height, width = images.shape[1:3]
    side = max(1, min(height, width) // 4) if size is None else size
    step = max(1, side // 2) if stride is None else stride
    if not 1 <= side <= min(height, width):
        raise ValueError(f"a patch of {side}x{side} pixels does not fit into images of {height}x{width}")
    if not 1 <= step <= side:
        raise ValueError(f"a stride of {step} would leave pixels out between patches of {side}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it has to be at least 1")
    images = jnp.asarray(images)
    found = logits(model, variables, images)
    classes = found.argmax(-1) if classes is None else jnp.asarray(classes)
    rows, columns = _patches(height, side, step), _patches(width, side, step)
    places = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
    falls = []
    for first in range(0, len(places), batch_size):
        taken = places[first : first + batch_size]
        taken += taken[-1:] * (min(batch_size, len(places)) - len(taken))  # one shape is compiled
        hidden = np.stack([np.outer(rows[i], columns[j]) for i, j in taken])
        falls.append(_falls(model, variables, images, classes, hidden, np.float32(fill), found))
    return _per_pixel(tuple(falls), rows, columns)


def _patches(length: int, size: int, stride: int) -> np.ndarray:
    """Which pixels of a side each patch hides, (num_patches, length) of ones and zeros; the last is flush."""
    starts, pixels = np.asarray([*range(0, length - size, stride), length - size])[:, None], np.arange(length)
    return ((starts <= pixels[None]) & (pixels[None] < starts + size)).astype(np.float32)


@partial(jax.jit, static_argnames="model")
def _falls(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    classes: jax.Array,
    hidden: jax.Array,
    fill: jax.Array,
    found: jax.Array,
) -> jax.Array:
    """(num_patches, N): the fall of each image's class's logit behind each patch (num_patches, H, W)."""
    covered = jnp.where(hidden[:, None, :, :, None] > 0, fill.astype(images.dtype), images[None])
    covered = covered.reshape(-1, *images.shape[1:])
    behind = logits(model, variables, covered).reshape(len(hidden), *found.shape)
    whole = class_logits(found, classes)
    return whole[None] - jax.vmap(lambda one: class_logits(one, classes))(behind)


@jax.jit
def _per_pixel(falls: tuple[jax.Array, ...], rows: jax.Array, columns: jax.Array) -> jax.Array:
    """For each pixel, the mean fall of the patches that hide it: (N, H, W)."""
    num_places = len(rows) * len(columns)
    fall = jnp.concatenate(falls)[:num_places].reshape(len(rows), len(columns), -1)
    hides = rows.sum(0)[:, None] * columns.sum(0)[None]
    return jnp.einsum("ijn,ih,jw->nhw", fall, rows, columns) / hides[None]
