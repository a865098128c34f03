"""Pooling over NHWC images with explicit padding, as torch and Caffe count it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxarch.ops import native
from flaxarch.ops.dense import Pads
from flaxarch.ops.lowering import native_forms

Padding = int | str | Pads  # one number pads all four sides; "SAME" and "VALID" are TensorFlow's


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
    if native_forms():
        return _reduce_max(x, window_shape, strides, pads)
    if native.cpu_kernels() and native.takes_pool(x, window_shape, pads):
        return native.max_pool(x, window_shape, strides, pads)
    if x.dtype == jnp.bfloat16:  # whose gradient XLA computes number by number, and rounds at each window
        return _max_pool_cpu(x.astype(jnp.float32), window_shape, strides, pads).astype(x.dtype)
    return _max_pool_cpu(x, window_shape, strides, pads)


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
    windows, steps, all_pads = (1, *window_shape, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    if native.cpu_kernels() and native.takes_pool(x, window_shape, pads):
        total = native.sum_pool(x, window_shape, strides, pads)
    else:
        total = lax.reduce_window(x, 0.0, lax.add, windows, steps, all_pads)
    if count_padding:
        return total / (window_shape[0] * window_shape[1])
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return total / lax.reduce_window(ones, 0.0, lax.add, windows, steps, all_pads)


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


def _reduce_max(
    x: jax.Array, window_shape: tuple[int, int], strides: tuple[int, int], pads: Pads
) -> jax.Array:
    windows, steps = (1, *window_shape, 1), (1, *strides, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, windows, steps, ((0, 0), *pads, (0, 0)))


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool_cpu(
    x: jax.Array, window_shape: tuple[int, int], strides: tuple[int, int], pads: Pads
) -> jax.Array:
    return _reduce_max(x, window_shape, strides, pads)


@_max_pool_cpu.defjvp
def _max_pool_cpu_jvp(window_shape, strides, pads, primals, tangents):
    """Find each window's first maximum among its shifted views: XLA's gradient is up to 19x slower."""
    (x,), (x_dot,) = primals, tangents
    y = _reduce_max(x, window_shape, strides, pads)
    # Compared with each other, never with y: XLA may compute x anew for y, and round it otherwise there.
    largest, *others = _shifted(x, window_shape, strides, pads, y.shape, -jnp.inf)
    place = jnp.zeros(y.shape, jnp.int16)
    for i, value in enumerate(others, start=1):
        place = jnp.where(value > largest, jnp.int16(i), place)
        largest = jnp.maximum(largest, value)
    y_dot = jnp.zeros_like(y)
    for i, tangent in enumerate(_shifted(x_dot, window_shape, strides, pads, y.shape, 0.0)):
        y_dot = y_dot + jnp.where(place == i, tangent, 0)
    return y, y_dot


def _shifted(x, window_shape, strides, pads, shape, fill) -> list[jax.Array]:
    """For each position in the window, row by row, what the windows hold there: (N, H', W', C)."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    (rows, columns), (step_y, step_x) = window_shape, strides
    n, height, width, channels = shape
    return [
        lax.slice(
            x,
            (0, i, j, 0),
            (n, i + (height - 1) * step_y + 1, j + (width - 1) * step_x + 1, channels),
            (1, step_y, step_x, 1),
        )
        for i in range(rows)
        for j in range(columns)
    ]
