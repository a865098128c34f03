"""2-D convolution with `lax.conv_general_dilated`'s arguments: `nn.Conv(conv_general_dilated=...)`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flaxarch.ops.lowering import native_forms

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
    are matrix products, and grouped convolutions a few dense ones; all else is `lax`'s everywhere.
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
    if feature_group_count > 1:
        return _grouped(conv, lhs, rhs, feature_group_count)
    unpadded = padding in ("SAME", "VALID") or all(tuple(pads) == (0, 0) for pads in padding)
    undilated = all(d == 1 for d in lhs_dilation or ())
    if rhs.shape[:2] == (1, 1) and unpadded and undilated:
        lhs = lhs[:, :: window_strides[0], :: window_strides[1]]
        return lax.dot_general(lhs, rhs[0, 0], (((3,), (0,)), ((), ())), precision=precision)
    return conv(lhs, rhs)


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
