"""Shattered gradients: Balduzzi et al., ICML 2017, https://arxiv.org/abs/1702.08591.

The gradient of a deep plain network, as a function of its input, is close to white noise: nearby inputs have
unrelated gradients. Shortcuts keep it close to brown noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def gradient_on_line(
    fn: Callable[[jax.Array], jax.Array], start: jax.Array, stop: jax.Array, num_points: int = 256
) -> jax.Array:
    """(num_points,): slope of `fn` along the straight line from `start` to `stop`, at equal distances.

    >>> fn = lambda x: model.apply(variables, x, train=False)[:, 0]      # a network's first logit
    >>> gradients = gradient_on_line(fn, images[0], images[1])

    Args:
      fn: (num_points, *start.shape) -> (num_points,), of each point by itself: a network with batch norm is
        to be evaluated, with the statistics that `flaxarch.estimate_batch_stats` finds.
      start: the first input, such as an image (H, W, C); -2 in the paper, whose input is one number.
      stop: the last input; 2 in the paper.
      num_points: 256 in the paper.
    """
    start, stop = jnp.asarray(start), jnp.asarray(stop)
    t = jnp.linspace(0, 1, num_points, dtype=start.dtype).reshape(-1, *(1,) * start.ndim)
    points = start[None] + t * (stop - start)[None]
    gradients = jax.grad(lambda x: fn(x).sum())(points)
    return (gradients * (stop - start)[None]).reshape(num_points, -1).sum(axis=1)


def autocorrelation(gradients: ArrayLike, max_lag: int) -> np.ndarray:
    """(..., max_lag + 1): correlation of gradients (..., num_points) with themselves, further along the line.

    Near 0 from lag 1 on for white noise, slowly falling for brown noise.
    """
    centred = np.asarray(gradients, np.float64)
    if not 0 <= max_lag < centred.shape[-1]:
        raise ValueError(f"gradients at {centred.shape[-1]} points have no lag {max_lag}")
    centred = centred - centred.mean(axis=-1, keepdims=True)
    total = (centred**2).sum(axis=-1)
    if not total.all():
        raise ValueError("a gradient is the same at all points: it has no autocorrelation")
    size = centred.shape[-1]
    lags = [
        (centred[..., : size - lag] * centred[..., lag:]).sum(axis=-1) / total for lag in range(max_lag + 1)
    ]
    return np.stack(lags, axis=-1)


def gradient_correlation(gradients: ArrayLike) -> np.ndarray:
    """(num_points, num_points): correlation of gradients (num_inits, num_points, ...) at any two points.

    E[<g, g'>] / sqrt(E[|g|^2] E[|g'|^2]) over initialisations, for which gradients have mean zero. What
    theory says of it holds for two inputs that a unit finds unrelated, both above zero in a quarter of cases.
    """
    given = np.asarray(gradients, np.float64)
    if given.ndim < 2 or len(given) < 2:
        raise ValueError(
            f"gradients are (num_inits, num_points, ...), of two networks or more, not {given.shape}"
        )
    products = np.einsum("ipx,iqx->pq", *(2 * [given.reshape(*given.shape[:2], -1)]))
    norms = np.sqrt(np.diag(products))
    return products / np.outer(norms, norms)


def plain_correlation(depth: ArrayLike) -> np.ndarray:
    """Theory: correlation of the gradients at two inputs, of a plain ReLU network of L layers: 1 / 2^L."""
    return 0.5 ** np.asarray(depth, np.float64)


def residual_correlation(depth: ArrayLike, *, batch_norm: bool) -> np.ndarray:
    """Theory: of a residual network of L blocks (3/4)^L, with batch norm on the branch about 1 / sqrt(L)."""
    depth = np.asarray(depth, np.float64)
    return 1 / np.sqrt(depth) if batch_norm else 0.75**depth
