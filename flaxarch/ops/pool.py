"""Pooling over NHWC images with explicit padding, as torch and Caffe count it."""

import math
from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxarch.ops import maxima
from flaxarch.ops.dense import Pads
from flaxarch.ops.lowering import apart, native_forms
from flaxarch.ops.maxima import Geometry

Padding = int | str | Pads  # one number pads all four sides; "SAME" and "VALID" are TensorFlow's
# Entries of a window up to which its shifted views are summed up on CPU, sooner than by `reduce_window`. With
# 49 the gradient would take longer.
_FEW = 25


def max_pool(
    x: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = 0,
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """Maximum over windows: (N, H, W, C) -> (N, H', W', C). Padding is -inf.

    With `ceil_mode` a last window that the image does not fill counts too, as in torch and Caffe.

    Where several inputs of a window share the maximum, the first one, row by row, gets the gradient.
    """
    pads = _pads(x, window_shape, strides, padding, ceil_mode)
    geometry = _geometry(x, window_shape, strides, pads)
    if native_forms() or geometry is None:
        return _reduce_max(x, window_shape, strides, pads)
    return maxima.max_pool(x, geometry)


def avg_pool(
    x: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = 0,
    *,
    count_padding: bool = True,
    ceil_mode: bool = False,
) -> jax.Array:
    """Mean over windows: (N, H, W, C) -> (N, H', W', C).

    Padded zeros count as torch and Caffe do, or with `count_padding=False` are left out of the mean as in
    TensorFlow. What `ceil_mode` adds to the last window is left out only then: torch never counts it.
    """
    pads = _pads(x, window_shape, strides, padding, ceil_mode)
    geometry = _geometry(x, window_shape, strides, pads)
    if not native_forms() and geometry is not None and math.prod(window_shape) <= _FEW:
        return _mean_of_views(maxima.wide(x), geometry, count_padding).astype(jnp.result_type(x, 1.0))
    windows, steps, all_pads = (1, *window_shape, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    total = lax.reduce_window(x, 0.0, lax.add, windows, steps, all_pads)
    if count_padding:
        return total / (window_shape[0] * window_shape[1])
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return total / lax.reduce_window(ones, 0.0, lax.add, windows, steps, all_pads)


@partial(apart, static=(1, 2))
def _mean_of_views(x: jax.Array, geometry: Geometry, count_padding: bool) -> jax.Array:
    def total(x: jax.Array) -> jax.Array:
        return reduce(jnp.add, maxima.shifted(x, geometry, 0.0))

    if count_padding:
        return total(x) / math.prod(geometry.window_shape)
    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Mean over height and width: (N, H, W, C) -> (N, C)."""
    return x.mean(axis=(1, 2))


def subsample(x: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """Every so many-th row and column, from the first on: (N, H, W, C) -> (N, H', W', C).

    As x[:, ::s, ::t] for sizes that are numbers; for symbolic ones that would be a gather.
    """
    return lax.slice(x, (0, 0, 0, 0), x.shape, (1, *strides, 1))


def adaptive_avg_pool(x: jax.Array, output_size: tuple[int, int]) -> jax.Array:
    """Mean over windows that share the image out: (N, H, W, C) -> (N, *output_size, C), of any H and W.

    Window i of n covers rows floor(i H / n) to ceil((i + 1) H / n), as in torch.
    """
    if x.shape[1:3] == tuple(output_size):
        return x
    rows, columns = (
        jnp.asarray(_windows(size, n), x.dtype) for size, n in zip(x.shape[1:3], output_size, strict=True)
    )
    return jnp.einsum("nhwc,ih,jw->nijc", x, rows, columns)


def _windows(size: int, n: int) -> np.ndarray:
    """The (n, size) matrix of means over n windows."""
    weights = np.zeros((n, size))
    for i in range(n):
        first, end = i * size // n, -(-(i + 1) * size // n)
        weights[i, first:end] = 1 / (end - first)
    return weights


def _pads(
    x: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding,
    ceil_mode: bool,
) -> Pads:
    if isinstance(padding, str):
        top_bottom, left_right = lax.padtype_to_pads(x.shape[1:3], window_shape, strides, padding)
    elif isinstance(padding, int):
        top_bottom = left_right = (padding, padding)
    else:
        top_bottom, left_right = padding
    if not ceil_mode:
        return top_bottom, left_right
    rows, columns = (
        _ceil(*sizes)
        for sizes in zip(x.shape[1:3], window_shape, strides, (top_bottom, left_right), strict=True)
    )
    return rows, columns


def _ceil(size: int, window: int, stride: int, pads: tuple[int, int]) -> tuple[int, int]:
    """Pads so that a last, partly filled window counts, if it starts inside the image or the first pad."""
    before, after = pads
    num_windows = -(-(size + before + after - window) // stride) + 1
    if (num_windows - 1) * stride >= size + before:
        num_windows -= 1
    return before, max(after, (num_windows - 1) * stride + window - size - before)


def _geometry(
    x: jax.Array, window_shape: tuple[int, int], strides: tuple[int, int], pads: Pads
) -> Geometry | None:
    """None where no window stands in the images, or there are none."""
    y = jax.eval_shape(lambda x: _reduce_max(x, window_shape, strides, pads), x)
    if 0 in y.shape:
        return None

    def pair(two: Sequence[int]) -> tuple[int, int]:
        """Hashable, though it be given as a list."""
        first, second = two
        return first, second

    sizes = pair(x.shape[1:3]), pair(y.shape[1:3])
    return Geometry(*sizes, pair(window_shape), pair(strides), (pair(pads[0]), pair(pads[1])))


def _reduce_max(
    x: jax.Array, window_shape: tuple[int, int], strides: tuple[int, int], pads: Pads
) -> jax.Array:
    windows, steps = (1, *window_shape, 1), (1, *strides, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, windows, steps, ((0, 0), *pads, (0, 0)))
