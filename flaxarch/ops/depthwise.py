"""The depthwise convolution on CPU: sums of products of the image, shifted, with an entry of the kernel."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from flaxarch.ops.bilinear import Free, bilinear
from flaxarch.ops.lowering import apart
from flaxarch.ops.sums import over_pixels


class Geometry(NamedTuple):
    """Of a depthwise convolution without padding, in height and width."""

    input_size: tuple[int, int]
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]  # of the kernel


def _forward(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """x (N, H, W, C), w (h, w, C) -> y (N, H', W', C): what each entry sees, times the entry."""
    size = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(x.shape[1:3], w.shape[:2], *geometry[2:], strict=True)
    ]
    views = _views(x, size, geometry)
    products = [view * w[None, None, None, i, j] for i, row in enumerate(views) for j, view in enumerate(row)]
    return sum(products[1:], products[0])


def _x_gradient(y_bar: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The same with y_bar, spread, and the kernel turned round."""
    pads = []
    for n, m, k, s, d in zip(geometry.input_size, y_bar.shape[1:3], *geometry[1:], strict=True):
        reach = (k - 1) * d
        pads.append((reach, n - (m - 1) * s - 1, s - 1))
    spread = lax.pad(y_bar, jnp.zeros((), y_bar.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    geometry = geometry._replace(input_size=spread.shape[1:3], strides=(1, 1))
    return _forward(spread, w[::-1, ::-1], geometry)


def _w_gradient(x: jax.Array, y_bar: jax.Array, geometry: Geometry) -> jax.Array:
    """For each entry, what it sees times y_bar, summed; for all entries of a row of the kernel at once."""
    rows = _views(x, y_bar.shape[1:3], geometry)
    return jnp.stack([jnp.stack(over_pixels([view * y_bar for view in row])) for row in rows])


def _views(x: jax.Array, size: Sequence[int], geometry: Geometry) -> list[list[jax.Array]]:
    """For each row and column of the kernel, what it sees there, wherever it stands: (N, *size, C)."""
    (rows, columns), (step_y, step_x), (dilation_y, dilation_x) = geometry[1:]
    height, width = (size[0] - 1) * step_y + 1, (size[1] - 1) * step_x + 1
    return [
        [
            lax.slice(
                x, (0, i, j, 0), (x.shape[0], i + height, j + width, x.shape[3]), (1, step_y, step_x, 1)
            )
            for j in range(0, columns * dilation_x, dilation_x)
        ]
        for i in range(0, rows * dilation_y, dilation_y)
    ]


conv = bilinear(
    "depthwise_conv",
    (apart(_forward), Free((0, 0), None)),
    (apart(_x_gradient), Free((0, 0), None)),
    (apart(_w_gradient), Free(None, None)),
)
