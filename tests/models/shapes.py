"""What a network would give, found without computing it."""

from typing import Any

import jax
import jax.numpy as jnp

import flaxarch


def map_shapes(model: Any, *image_shape: int) -> dict[int, tuple[int, ...]]:
    """The feature pyramid's shapes for an image (H, W, C): {stride: (H / stride, W / stride, features)}."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    maps = jax.eval_shape(flaxarch.features(model), *variables, images)
    return {stride: x.shape[1:] for stride, x in maps.items()}
