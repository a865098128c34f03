"""Weights, images and labels by a formula, so that golden files hold outputs only.

A number depends on the name of its tensor and its place in it, and on nothing else: it is read off the raw
stream of PCG64, which NumPy promises to keep (its distributions may change), so that a file recorded today
fits the weights of any later day.
"""

import math
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

NUM_PRODUCTS = 8  # of a sketch


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """The numbers of `name`: float64, uniform in [low, high)."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return (low + (high - low) * ((bits >> np.uint64(11)) * 2.0**-53)).reshape(shape)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor that a checkpoint of torch or Keras has under `name`.

    Kernels have variance 1 / fan_in, which keeps activations of order one in a residual network too, where
    each block adds to the trunk. All else is such that a wrong epsilon, a swapped mean and bias or a missing
    scale shows: scales and variances in [0.5, 1.5], biases and means in [-0.2, 0.2].
    """
    leaf = re.split(r"[./]", name)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if len(shape) > 1:
        bound = math.sqrt(3 / _fan_in(leaf, shape))
        return uniform(name, shape, -bound, bound)
    if leaf in ("weight", "gamma", "running_var", "moving_variance"):
        return uniform(name, shape, 0.5, 1.5)
    return uniform(name, shape, -0.2, 0.2)


def _fan_in(leaf: str, shape: tuple[int, ...]) -> int:
    """Inputs of one unit: of kernels HWIO and IO in Keras, OIHW and OI in torch."""
    if not leaf.endswith("kernel"):
        return math.prod(shape[1:])
    is_depthwise = len(shape) == 4 and shape[-1] == 1 < shape[-2]  # HWC1
    return math.prod(shape[:-2] if is_depthwise else shape[:-1])


def tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A whole checkpoint."""
    return {name: tensor(name, tuple(shape)) for name, shape in shapes.items()}


def images(num_images: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """A batch (N, H, W, C) of about the mean and the spread of normalised images."""
    shape = (num_images, height, width, channels)
    return uniform(f"images {shape}", shape, -2, 2)


def labels(num_images: int, num_classes: int) -> np.ndarray:
    """A class for each image of a batch."""
    return uniform(f"labels {num_images}", (num_images,), 0, num_classes).astype(np.int32)


def sketch(name: str, array: Any) -> np.ndarray:
    """What a golden file keeps of a large tensor: its norm, then inner products with `NUM_PRODUCTS` vectors.

    Each vector is an outer product of random ones, one per axis, with entries of variance one. The root mean
    square of the products therefore estimates the norm, and that of their differences the norm of a
    difference (`sketch_error`); swapped axes or channels show.
    """
    array = np.asarray(array, np.float64)
    products = np.broadcast_to(array, (NUM_PRODUCTS, *array.shape))
    for axis, size in enumerate(array.shape):
        vectors = uniform(f"sketch {axis} {name}", (NUM_PRODUCTS, size), -math.sqrt(3), math.sqrt(3))
        products = np.einsum("pi,pi...->p...", vectors, products)
    return np.array([np.linalg.norm(array.ravel()), *products])


def sketch_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Estimate of the norm of a difference, from two sketches of one tensor."""
    products = float(np.sqrt(np.mean((found[1:] - expected[1:]) ** 2)))
    return max(products, abs(float(found[0] - expected[0])))
