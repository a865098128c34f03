"""Spectral norms of convolutions: the largest factor by which one stretches a map of features.

Of a circular convolution exactly, frequency by frequency: Sedghi et al. 2019,
https://arxiv.org/abs/1805.10408. A convolution padded with zeros is a part of the circular one on the map
with its padding: zeros are put around what that reads, and of what it gives some is left out. So the
circular one's norm is a bound of the padded one's, with any padding and stride; measured ones lie below.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from flaxarch.depth.krylov import arnoldi, ritz


def circular_singular_values(kernel: ArrayLike, size: Sequence[int]) -> np.ndarray:
    """All singular values of the circular convolution on maps of `size`: (H, W, min(C, features)).

    Args:
      kernel: (h, w, C, features).
      size: (H, W), around which a larger kernel is wrapped.
    """
    found = np.linalg.svd(_symbol(kernel, size), compute_uv=False)
    mirrored = np.roll(found[::-1, : (size[1] + 1) // 2][:, :0:-1], 1, axis=0)
    return np.concatenate([found, mirrored], axis=1)


def circular_norm(kernel: ArrayLike, size: Sequence[int]) -> float:
    """The spectral norm of the circular convolution on maps (H, W), exact to rounding; as above."""
    symbol = _symbol(kernel, size)
    symbol = symbol if symbol.shape[-2] <= symbol.shape[-1] else symbol.swapaxes(-1, -2)
    gram = symbol @ symbol.conj().swapaxes(-1, -2)
    return math.sqrt(max(0.0, np.linalg.eigvalsh(gram).max()))


def _symbol(kernel: ArrayLike, size: Sequence[int]) -> np.ndarray:
    """(H, W // 2 + 1, ..., C, features): at each frequency; at others, by the conjugates, as it is real."""
    kernel = np.asarray(kernel, np.float64)
    (height, width), wrapped = size, np.zeros((*size, *kernel.shape[2:]))
    for i, j in np.ndindex(*kernel.shape[:2]):
        wrapped[i % height, j % width] += kernel[i, j]
    return np.fft.rfft2(wrapped, axes=(0, 1))


def norm_bound(
    kernel: ArrayLike, size: Sequence[int], *, groups: int = 1, dilation: Sequence[int] = (1, 1)
) -> float:
    """No convolution by this kernel of maps (H, W), padded with zeros or strided as it may be, exceeds it.

    Args:
      kernel: (h, w, C / groups, features).
      size: (H, W) of the map without its padding.
      groups: the `feature_group_count`.
      dilation: of the kernel.
    """
    kernel = np.asarray(kernel, np.float64)
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    spread = np.zeros((reach[0] + 1, reach[1] + 1, *kernel.shape[2:]))
    spread[:: dilation[0], :: dilation[1]] = kernel
    # with so many zeros nothing goes around; a kernel of one pixel is the same at all frequencies
    padded = [n + r if r else 1 for n, r in zip(size, reach, strict=True)]
    of_groups = spread.reshape(*spread.shape[:3], groups, -1).swapaxes(2, 3)  # (h, w, groups, C, features)
    return circular_norm(of_groups, padded)


def measured_norm(
    kernel: ArrayLike,
    size: Sequence[int],
    *,
    strides: Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
    groups: int = 1,
    dilation: Sequence[int] = (1, 1),
    num_steps: int = 32,
    seed: int = 0,
) -> float:
    """The spectral norm of the convolution as it is padded, by Lanczos's method: from below.

    Krylov's space has in it what the power iteration reaches in as many steps, and comes closer. Arguments
    are `norm_bound`'s and `lax.conv_general_dilated`'s; `num_steps` times it and its transpose are applied.
    """
    weights = jnp.asarray(kernel)
    shape = (1, *size, weights.shape[2] * groups)
    pads = padding if isinstance(padding, str) else [(before, after) for before, after in padding]

    @jax.jit
    def run(weights: jax.Array, start: jax.Array) -> jax.Array:
        def conv(x: jax.Array) -> jax.Array:
            return lax.conv_general_dilated(
                x,
                weights,
                tuple(strides),
                pads,
                rhs_dilation=tuple(dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
                precision=lax.Precision.HIGHEST,
            )

        transposed = jax.linear_transpose(conv, jax.ShapeDtypeStruct(shape, weights.dtype))

        def twice(x: jax.Array) -> jax.Array:
            return transposed(conv(x.reshape(shape)))[0].reshape(-1)

        return arnoldi(twice, start, min(num_steps, start.size))

    start = jax.random.normal(jax.random.key(seed), (math.prod(shape),), weights.dtype)
    return float(np.sqrt(ritz(np.asarray(run(weights, start)), symmetric=True).values[0]))
