"""What a unit of a feature map sees in effect, within the field that it could see."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxarch.explain.program import trace

TWO_SIGMA = 1 - 0.9545  # share of the central value that bounds the effective field: two deviations


class FieldSize(NamedTuple):
    """How large an effective receptive field is."""

    pixels: int  # that have at least 4.55 % of the largest value
    side: float  # of a square of as many


@partial(jax.jit, static_argnames=("model", "layer"))
def effective_receptive_field(
    model: nn.Module, variables: Any, images: jax.Array, layer: str | None = None
) -> jax.Array:
    """The effective receptive field of a layer's central unit: (H, W), 1 at its largest.

    Luo et al. 2016, Sec. 3, https://arxiv.org/abs/1701.04128: a gradient of one at the centre of the map, and
    zero elsewhere, back to the image. Here: of the unit's features together, in absolute value, summed over
    the image's channels and averaged over the images. It lies within the theoretical field, of which
    `flaxarch.cost` tells the size. One forward pass, and backwards from the layer on: two at most.

    Args:
      model: any network.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network reads them; noise for the field of the architecture.
      layer: a name as `layers` has them; None: the last feature map.

    Raises ValueError where there is no such layer, or where it has no height and width.
    """
    program = trace(model, variables, images)
    var = program.feature_map(layer)
    _, height, width, _ = var.aval.shape

    def centre(images: jax.Array) -> jax.Array:
        (found,) = program.evaluate(variables, images, [var])
        return found[:, height // 2, width // 2].astype(jnp.float32).sum()

    field = jnp.abs(jax.grad(centre)(images)).sum(-1).mean(0)
    largest = field.max()
    return field / jnp.where(largest > 0, largest, 1.0)


def field_size(field: Any) -> FieldSize:
    """The size of an effective receptive field (H, W), as Luo et al. 2016, Sec. 3, count it."""
    pixels = int((np.asarray(field) >= TWO_SIGMA * np.max(field)).sum())
    return FieldSize(pixels, pixels**0.5)
