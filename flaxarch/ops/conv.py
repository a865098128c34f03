"""2-D convolution with `lax.conv_general_dilated`'s arguments: `nn.Conv(conv_general_dilated=...)`."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flaxarch.ops import dense, depthwise, native
from flaxarch.ops.lowering import native_forms
from flaxarch.ops.pool import subsample

# Groups are merged until a convolution reads this many channels. Measured on two cores for ResNeXt's four
# stages: 32 is as fast as one convolution per group or faster, and compiles in half the time; 64 doubles
# the time, `feature_group_count` multiplies it by up to 400 (in the gradient).
_MERGED_CHANNELS = 32


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Convolve `lhs` (N, H, W, C) with `rhs` (h, w, C / groups, features) -> (N, H', W', features).

    Equal to `lax.conv_general_dilated` to rounding, where all values are finite. On CPU, 1x1 convolutions
    and those with a kernel of the image's size are matrix products, depthwise ones sums of shifted products,
    and other grouped convolutions a few dense ones; the gradients of these are convolutions in the forward
    one's layout. All else is `lax`'s everywhere.
    """

    def conv(lhs: jax.Array, rhs: jax.Array, groups: int = 1) -> jax.Array:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=groups,
            precision=precision,
        )

    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    is_nhwc = numbers == lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    if native_forms() or not is_nhwc:
        return conv(lhs, rhs, feature_group_count)
    undilated = all(d == 1 for d in lhs_dilation or ())
    (step_y, step_x), (dilation_y, dilation_x) = window_strides, rhs_dilation or (1, 1)
    strides, dilation = (step_y, step_x), (dilation_y, dilation_x)
    pointwise = rhs.shape[:2] == (1, 1)
    unpadded = padding == "VALID" or (padding == "SAME" and pointwise)
    if not isinstance(padding, str):
        unpadded = all(tuple(pads) == (0, 0) for pads in padding)
    of_whole_map = rhs.shape[:2] == lhs.shape[1:3] and unpadded and undilated and dilation == (1, 1)
    if of_whole_map and feature_group_count == 1:
        # a dense layer: VGG's 7x7 on 7x7 has its gradient 4x sooner so
        n, features = lhs.shape[0], rhs.shape[-1]
        flat, kernel = lhs.reshape(n, math.prod(lhs.shape[1:])), rhs.reshape(-1, features)
        return jnp.matmul(flat, kernel, precision=precision).reshape(n, 1, 1, features)
    one = conv  # of one group
    if undilated and lhs.dtype == rhs.dtype:
        pads = _pads(lhs.shape, rhs.shape, window_strides, padding, dilation)
        wanted = native.cpu_kernels()
        if wanted and native.takes_convolution(lhs, rhs, pads, dilation, feature_group_count, precision):
            return native.convolve(lhs, rhs, strides, pads, dilation, feature_group_count)
        one = partial(_dense, strides=strides, pads=pads, dilation=dilation, precision=precision)
    if 1 < feature_group_count == lhs.shape[-1] and undilated:
        return _depthwise(lhs, rhs, strides, padding, dilation)
    if feature_group_count > 1:
        return _grouped(one, lhs, rhs, feature_group_count)
    if pointwise and unpadded and undilated:
        lhs = subsample(lhs, strides)
        return dense.pointwise(lhs, rhs[0, 0], precision)
    return one(lhs, rhs)


def _pads(
    images: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
) -> dense.Pads:
    """(top, bottom), (left, right)."""
    if isinstance(padding, str):
        window = [(size - 1) * d + 1 for size, d in zip(kernel, dilation, strict=False)]
        padding = lax.padtype_to_pads(images[1:3], window, strides, padding)
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)


def _dense(lhs: jax.Array, rhs: jax.Array, **geometry: Any) -> jax.Array:
    sizes: Any = lhs.shape[1:3], rhs.shape[:2]
    return dense.conv(lhs, rhs, dense.Geometry(*sizes, **geometry))


def _grouped(conv: Any, lhs: jax.Array, rhs: jax.Array, groups: int) -> jax.Array:
    """The grouped convolution as dense ones, each over a few groups and with a block-diagonal kernel."""
    h, w, group_channels, features = rhs.shape
    merge = max(
        m
        for m in range(1, groups + 1)
        if groups % m == 0 and m * group_channels <= max(_MERGED_CHANNELS, group_channels)
    )
    kernels = rhs.reshape(h, w, group_channels, groups // merge, merge, features // groups)
    # [h, w, merged group, group of its inputs, input, group of its outputs, output]: zero between groups
    kernels = jnp.einsum("hwigmo,mn->hwgnimo", kernels, jnp.eye(merge, dtype=rhs.dtype))
    kernels = kernels.reshape(h, w, groups // merge, merge * group_channels, -1)
    inputs = jnp.split(lhs, groups // merge, axis=-1)
    return jnp.concatenate([conv(x, kernels[:, :, i]) for i, x in enumerate(inputs)], axis=-1)


def _depthwise(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: tuple[int, int],
    padding: str | Sequence[tuple[int, int]],
    dilation: tuple[int, int],
) -> jax.Array:
    """The convolution of each channel by itself: rhs (h, w, 1, multiplier * C), channel by channel."""
    (top, bottom), (left, right) = _pads(lhs.shape, rhs.shape, strides, padding, dilation)
    dtype = jnp.promote_types(lhs.dtype, jnp.float32)  # bfloat16 would round the sum at each of its terms
    x, kernel = lhs.astype(dtype), rhs[:, :, 0].astype(dtype)
    x = lax.pad(x, jnp.zeros((), dtype), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))
    x = jnp.repeat(x, rhs.shape[-1] // lhs.shape[-1], axis=-1)
    sizes: Any = x.shape[1:3], rhs.shape[:2]
    y = depthwise.conv(x, kernel, depthwise.Geometry(*sizes, strides=strides, dilation=dilation))
    return y.astype(lhs.dtype)
