"""The dense convolution on CPU, whose gradients are convolutions in the layout that XLA runs fast.

The gradients that JAX derives are the same convolutions with batch and features in each other's places, as
dimension numbers. XLA's CPU backend has a fast routine for (N, H, W, C) with (h, w, C, features) only. Others
it turns into these, but not in the body of a loop or a conditional: there they are 9 to 50 times slower. Here
the arrays are transposed, which makes no difference outside of loops (`python -m benchmarks.loops`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from flaxarch.ops.bilinear import Free, bilinear

_NHWC = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]


class Geometry(NamedTuple):
    """Of a convolution, in height and width."""

    input_size: tuple[int, int]
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    pads: Pads
    dilation: tuple[int, int]  # of the kernel
    precision: lax.PrecisionLike


def _forward(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """x (N, H, W, C), w (h, w, C, features) -> y (N, H', W', features)."""
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        geometry.pads,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_NHWC,
        precision=geometry.precision,
    )


def _x_gradient(y_bar: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """Each pixel of x from the entries of y that it went into: y_bar, spread, and the kernel turned round."""
    pads = []
    for n, m, k, s, (before, _), d in zip(geometry.input_size, y_bar.shape[1:3], *geometry[1:5], strict=True):
        reach = (k - 1) * d
        first = reach - before
        pads.append((first, n + reach - ((m - 1) * s + 1) - first))
    return lax.conv_general_dilated(
        y_bar,
        jnp.swapaxes(w[::-1, ::-1], 2, 3),
        (1, 1),
        pads,
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_NHWC,
        precision=geometry.precision,
    )


def _w_gradient(x: jax.Array, y_bar: jax.Array, geometry: Geometry) -> jax.Array:
    """Each entry of w from all pairs that it joined: x with y_bar for a kernel, and images for channels."""
    pads = []
    for n, m, k, s, (before, _), d in zip(geometry.input_size, y_bar.shape[1:3], *geometry[1:5], strict=True):
        pads.append((before, (m - 1) * s + (k - 1) * d + 1 - n - before))
    w_bar = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        y_bar.transpose(1, 2, 0, 3),
        geometry.dilation,
        pads,
        rhs_dilation=geometry.strides,
        dimension_numbers=_NHWC,
        precision=geometry.precision,
    )
    return w_bar.transpose(1, 2, 0, 3)


conv = bilinear(
    "dense_conv",
    (_forward, Free((0, 0), (3, 3))),
    (_x_gradient, Free((0, 0), (2, 3))),
    (_w_gradient, Free((3, 2), (3, 3))),
)
