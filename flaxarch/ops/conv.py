"""2-D convolution with `lax.conv_general_dilated`'s arguments: `nn.Conv(conv_general_dilated=...)`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flaxarch.ops import dense
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
    dilation = tuple(rhs_dilation or (1, 1))
    one = conv  # of one group
    if undilated and lhs.dtype == rhs.dtype:
        pads = _pads(lhs.shape, rhs.shape, window_strides, padding, dilation)
        one = partial(
            _dense, strides=tuple(window_strides), pads=pads, dilation=dilation, precision=precision
        )
    if 1 < feature_group_count == lhs.shape[-1] and undilated:
        return _depthwise(lhs, rhs, tuple(window_strides), padding, dilation)
    if feature_group_count > 1:
        return _grouped(one, lhs, rhs, feature_group_count)
    pointwise = rhs.shape[:2] == (1, 1)
    unpadded = padding == "VALID" or (padding == "SAME" and pointwise)
    if not isinstance(padding, str):
        unpadded = all(tuple(pads) == (0, 0) for pads in padding)
    if pointwise and unpadded and undilated:
        lhs = subsample(lhs, (window_strides[0], window_strides[1]))
        return lax.dot_general(lhs, rhs[0, 0], (((3,), (0,)), ((), ())), precision=precision)
    if rhs.shape[:2] == lhs.shape[1:3] and unpadded and undilated and dilation == (1, 1):
        # a dense layer of the whole map: VGG's 7x7 on 7x7 has its gradient 4x sooner so
        (n, *_), features = lhs.shape, rhs.shape[-1]
        y = jnp.matmul(lhs.reshape(n, -1), rhs.reshape(-1, features), precision=precision)
        return y.reshape(n, 1, 1, features)
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
    strides: tuple[int, ...],
    padding: str | Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
) -> jax.Array:
    """The convolution of each channel by itself: rhs (h, w, 1, multiplier * C), channel by channel."""
    (top, bottom), (left, right) = _pads(lhs.shape, rhs.shape, strides, padding, dilation)
    dtype = jnp.promote_types(lhs.dtype, jnp.float32)  # bfloat16 would round the sum at each of its terms
    x, kernel = lhs.astype(dtype), rhs[:, :, 0].astype(dtype)
    x = lax.pad(x, jnp.zeros((), dtype), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))
    x = jnp.repeat(x, rhs.shape[-1] // lhs.shape[-1], axis=-1)
    y: Any = _shifted_products(x, kernel, strides, dilation)
    return y.astype(lhs.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted_products(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], dilation: tuple[int, ...]
) -> jax.Array:
    """Padded x (N, H, W, C), kernel (h, w, C) -> (N, H', W', C): what each entry sees, times the entry."""
    size = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(x.shape[1:3], kernel.shape[:2], dilation, strides, strict=True)
    ]
    views = _views(x, kernel.shape, size, strides, dilation)
    products = [
        view * kernel[None, None, None, i, j] for i, row in enumerate(views) for j, view in enumerate(row)
    ]
    return sum(products[1:], products[0])


def _shifted_products_fwd(x, kernel, strides, dilation):
    return _shifted_products(x, kernel, strides, dilation), (x, kernel)


def _shifted_products_bwd(strides, dilation, saved, y_bar):
    """Both sums anew: for a 5x5 or 7x7, the automatic gradient takes 3 to 8 times as long, twice to compile.

    It has a reduction for each of the kernel's entries, which XLA runs one by one; here there is one for each
    row of the kernel, with all the row's entries. For a 3x3 the two are about as fast.
    """
    x, kernel = saved
    zero = jnp.zeros((), x.dtype)
    pads = []
    for n, m, k, d, s in zip(
        x.shape[1:3], y_bar.shape[1:3], kernel.shape[:2], dilation, strides, strict=True
    ):
        reach = (k - 1) * d
        pads.append((reach, n - (m - 1) * s - 1, s - 1))
    spread = lax.pad(y_bar, zero, ((0, 0, 0), *pads, (0, 0, 0)))
    x_bar = _shifted_products(spread, kernel[::-1, ::-1], (1, 1), dilation)

    def add(a, b):
        return [i + j for i, j in zip(a, b, strict=True)]

    rows = [
        lax.reduce([view * y_bar for view in row], [zero] * len(row), add, (0, 1, 2))
        for row in _views(x, kernel.shape, y_bar.shape[1:3], strides, dilation)
    ]
    return x_bar, jnp.stack([jnp.stack(row) for row in rows])


_shifted_products.defvjp(_shifted_products_fwd, _shifted_products_bwd)


def _views(x, window, size, strides, dilation) -> list[list[jax.Array]]:
    """For each row and column of the window, what it holds there, wherever it stands: (N, *size, C)."""
    (rows, columns), (height, width), (step_y, step_x) = window[:2], size, strides
    ys, xs = range(0, rows * dilation[0], dilation[0]), range(0, columns * dilation[1], dilation[1])
    ends = (height - 1) * step_y + 1, (width - 1) * step_x + 1
    return [
        [
            lax.slice(
                x, (0, i, j, 0), (x.shape[0], i + ends[0], j + ends[1], x.shape[-1]), (1, step_y, step_x, 1)
            )
            for j in xs
        ]
        for i in ys
    ]
