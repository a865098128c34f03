"""The kernels that read the image, as pictures."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxarch.explain.program import trace


def first_layer_filters(model: nn.Module, variables: Any, images: Any) -> jax.Array:
    """The first convolution's kernels as pictures: (features, h, w, C) from 0 to 1. No forward pass.

    Krizhevsky et al. 2012, Fig. 3. Each kernel is scaled by its own largest absolute value, so that 0.5 is a
    weight of zero. Of `images` (N, H, W, C) only the shape counts. Channels are in the order in which the
    network reads them. `filter_grid` sets them side by side.

    Raises ValueError where the first convolution does not read the image itself, or the image has neither
    one channel nor three.
    """
    program = trace(model, variables, images)
    for path in program.kernels:
        params = variables["params"]
        for key in path.split("/"):
            params = params[key]
        if params["kernel"].ndim == 4:
            break
    else:
        raise ValueError(f"{program.network} has no convolution, so it has no filters to show")
    kernel, channels = params["kernel"], images.shape[3]
    if kernel.shape[2] != channels or channels not in (1, 3):
        raise ValueError(
            f"the first convolution of this {program.network}, {path}, reads {kernel.shape[2]} channels "
            f"of an image of {channels}: its filters are no pictures"
        )
    return _as_pictures(kernel)


@jax.jit
def _as_pictures(kernel: jax.Array) -> jax.Array:
    kernel = jnp.moveaxis(kernel.astype(jnp.float32), -1, 0)
    largest = jnp.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + kernel / (2 * jnp.where(largest > 0, largest, 1.0))


def filter_grid(filters: Any, columns: int | None = None, gap: float = 1.0) -> np.ndarray:
    """Pictures (n, h, w, C) side by side, row by row: one RGB picture (H, W, 3), a pixel of `gap` between.

    `columns` None makes the grid about square. Grey pictures (C = 1) become RGB.
    """
    filters = np.asarray(filters)
    n, height, width, channels = filters.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    rows = math.ceil(n / columns)
    grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), gap, filters.dtype)
    for i, picture in enumerate(filters):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        grid[top : top + height, left : left + width] = (
            np.broadcast_to(picture, (height, width, 3)) if channels == 1 else picture
        )
    return grid
