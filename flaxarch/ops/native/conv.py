"""Convolution by oneDNN: three operations, linear in each of two arrays, that are each other's gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxarch.ops.bilinear import Free, bilinear
from flaxarch.ops.dense import Pads
from flaxarch.ops.native.build import takes_bfloat16


class Geometry(NamedTuple):
    """Of a convolution: all that its arrays' shapes do not tell."""

    input_size: tuple[int, int]
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    pads: Pads
    dilation: tuple[int, int]  # of the kernel
    groups: int

    def numbers(self) -> np.ndarray:
        """As the kernels take it."""
        return np.asarray(
            (*self.strides, *self.pads[0], *self.pads[1], *self.dilation, self.groups), np.int64
        )


def takes_convolution(
    x: jax.Array,
    w: jax.Array,
    pads: Pads,
    dilation: tuple[int, int],
    groups: int,
    precision: lax.PrecisionLike,
) -> bool:
    """Whether the kernels can do it: equal types of float32 or bfloat16, no pad that crops, nothing empty.

    And do it well: gradients of dilated depthwise convolutions take five times as long as shifted products.
    """
    sizes = (*x.shape[1:], *w.shape)
    return (
        x.dtype == w.dtype
        and _takes_type(x)
        and precision in (None, lax.Precision.DEFAULT)
        and all(isinstance(n, int) and n > 0 for n in sizes)
        and _fits(x, (w.shape[0], w.shape[1]), pads, dilation)
        and not (_is_depthwise(x, groups) and dilation != (1, 1))
    )


def _fits(
    x: jax.Array, window_shape: tuple[int, int], pads: Pads, dilation: tuple[int, int] = (1, 1)
) -> bool:
    """Whether no pad crops, and at least one window stands in the padded images."""
    return all(
        min(side) >= 0 and n + sum(side) > (k - 1) * d
        for n, k, d, side in zip(x.shape[1:3], window_shape, dilation, pads, strict=True)
    )


def _takes_type(x: jax.Array) -> bool:
    """Whether the kernels know its type, on this CPU."""
    return x.dtype == jnp.float32 or (x.dtype == jnp.bfloat16 and takes_bfloat16())


def convolve(
    x: jax.Array,
    w: jax.Array,
    strides: tuple[int, int],
    pads: Pads,
    dilation: tuple[int, int],
    groups: int,
) -> jax.Array:
    """x (N, H, W, C), w (h, w, C / groups, features) -> (N, H', W', features).

    Depthwise, bfloat16 is float32 inside: oneDNN has some of these gradients 20 times faster.
    """
    dtype = x.dtype
    if _is_depthwise(x, groups):
        x, w = x.astype(jnp.float32), w.astype(jnp.float32)
    (_, height, width, _), (rows, columns, _, _) = x.shape, w.shape
    conv = _conv if groups == 1 else _grouped_conv
    y = conv(x, w, Geometry((height, width), (rows, columns), strides, pads, dilation, groups))
    return y.astype(dtype)


def _is_depthwise(x: jax.Array, groups: int) -> bool:
    return 1 < groups == x.shape[-1]


def _forward(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    sizes = (
        (n + before + after - (k - 1) * d - 1) // s + 1
        for n, k, s, (before, after), d in zip(*geometry[:5], strict=True)
    )
    return _call("flaxarch_conv", (x.shape[0], *sizes, w.shape[-1]), x, w, geometry)


def _x_gradient(y_bar: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    shape = (y_bar.shape[0], *geometry.input_size, w.shape[2] * geometry.groups)
    return _call("flaxarch_conv_dx", shape, y_bar, w, geometry)


def _w_gradient(x: jax.Array, y_bar: jax.Array, geometry: Geometry) -> jax.Array:
    shape = (*geometry.kernel_size, x.shape[-1] // geometry.groups, y_bar.shape[-1])
    return _call("flaxarch_conv_dw", shape, x, y_bar, geometry)


def _call(target: str, shape: Any, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(shape, a.dtype))
    return call(a, b, geometry=geometry.numbers())  # pyright: ignore[reportReturnType]


_conv = bilinear(
    "onednn_conv",
    (_forward, Free((0, 0), (3, 3))),
    (_x_gradient, Free((0, 0), (2, 3))),
    (_w_gradient, Free((3, 2), (3, 3))),
)
_grouped_conv = bilinear(  # more channels would be in other groups
    "onednn_grouped_conv",
    (_forward, Free((0, 0), None)),
    (_x_gradient, Free((0, 0), None)),
    (_w_gradient, Free(None, None)),
)
