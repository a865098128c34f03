"""The dense convolution on CPU, whose gradients are convolutions in the layout that XLA runs fast.

The gradients that JAX derives are the same convolutions with batch and features in each other's places, as
dimension numbers. XLA's CPU backend has a fast routine for (N, H, W, C) with (h, w, C, features) only. Others
it turns into these, but not in the body of a loop or a conditional: there they are 9 to 50 times slower. Here
the arrays are transposed, which makes no difference outside of loops (`python -m benchmarks.loops`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from flaxarch.ops.bilinear import Free, bilinear
from flaxarch.ops.lowering import apart

_NHWC = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)


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
    _, _, strides, pads, dilation, precision = geometry
    return _lax_conv(kept(x), w, strides, pads, dilation, precision)


def _x_gradient(y_bar: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """Each pixel of x from the entries of y that it went into: y_bar, spread, and the kernel turned round."""
    _, _, strides, _, dilation, precision = geometry
    pads = []
    for n, m, k, s, (before, _), d in zip(geometry.input_size, y_bar.shape[1:3], *geometry[1:5], strict=True):
        reach = (k - 1) * d
        first = reach - before
        pads.append((first, n + reach - ((m - 1) * s + 1) - first))
    turned = jnp.swapaxes(w[::-1, ::-1], 2, 3)
    return _lax_conv(kept(y_bar), turned, (1, 1), pads, dilation, precision, spread=strides)


def _w_gradient(x: jax.Array, y_bar: jax.Array, geometry: Geometry) -> jax.Array:
    """Each entry of w from all pairs that it joined: x with y_bar for a kernel, and images for channels."""
    _, _, strides, _, dilation, precision = geometry
    pads = []
    for n, m, k, s, (before, _), d in zip(geometry.input_size, y_bar.shape[1:3], *geometry[1:5], strict=True):
        pads.append((before, (m - 1) * s + (k - 1) * d + 1 - n - before))
    x, y_bar = kept(x).transpose(3, 1, 2, 0), kept(y_bar).transpose(1, 2, 0, 3)
    return _lax_conv(x, y_bar, dilation, pads, strides, precision).transpose(1, 2, 0, 3)


def _lax_conv(
    x: jax.Array,
    w: jax.Array,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    precision: lax.PrecisionLike,
    spread: Sequence[int] = (1, 1),
) -> jax.Array:
    """The convolution of x, `spread`, with w, by the one of XLA's two routines that is faster.

    XLA of jax 0.10 leaves to YNNPACK what that can convolve, which takes up to 1.8 times as long as Eigen's
    routine, the one before (`python -m benchmarks.convolutions`). YNNPACK cannot spread: rows twice as far
    from each other, in x and in w, are the same convolution to Eigen. A large kernel over few channels is the
    exception, and up to 16 channels XLA takes Eigen by itself.
    """
    rows, columns, channels, features = w.shape
    is_of_ynnpack = spread[0] == 1 and max(channels, features) > 16
    if is_of_ynnpack and (channels >= 16 or max(rows, columns) <= 3):
        spread, strides, dilation = ((2 * y, x) for y, x in (spread, strides, dilation))
        (top, bottom), left_right = pads
        pads = (2 * top, 2 * bottom), left_right
    return lax.conv_general_dilated(
        x,
        w,
        strides,
        pads,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=_NHWC,
        precision=precision,
    )


conv = bilinear(
    "dense_conv",
    (_forward, Free((0, 0), (3, 3))),
    (_x_gradient, Free((0, 0), (2, 3))),
    (_w_gradient, Free((3, 2), (3, 3))),
)


def _pointwise(x: jax.Array, w: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """x (..., C), w (C, features) -> y (..., features)."""
    return lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)


def _pointwise_x_gradient(y_bar: jax.Array, w: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    return lax.dot_general(y_bar, w, (((y_bar.ndim - 1,), (1,)), ((), ())), precision=precision)


def _pointwise_w_gradient(x: jax.Array, y_bar: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    pixels = tuple(range(x.ndim - 1))
    return lax.dot_general(x, y_bar, ((pixels, pixels), ((), ())), precision=precision)


pointwise = bilinear(
    "pointwise_conv",
    (apart(_pointwise), Free((0, 0), (1, 3))),
    (apart(_pointwise_x_gradient), Free((0, 0), (0, 3))),
    (apart(_pointwise_w_gradient), Free((3, 0), (3, 1))),
)


def kept(x: jax.Array) -> jax.Array:
    """x, which XLA's CPU backend computes once and keeps: for what a gradient reads again, or turned round.

    XLA would rather compute batch norm and activation anew wherever they are read, be it across the grain of
    the memory. It does not double what has two large operands, and cannot know that this one has one, for 0 x
    may be NaN. A convolution and its gradients ask for the same x + 0 x, which XLA then has once.
    `lax.optimization_barrier` is gone before XLA fuses.
    """
    return x + 0 * x
