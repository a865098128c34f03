"""Small networks with random weights, made without compiling anything."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import flaxarch
from flaxarch.models.cifar_resnet import CifarResNet, stage_sizes
from flaxarch.models.preact_resnet import CifarPreAct
from flaxarch.models.preact_unit import projection
from flaxarch.residual import residual

SHAPE = (8, 8, 3)


def tiny_resnet(depth: int = 20, **fields: Any) -> Any:
    """Blocks relu(x + F(x)); nine at depth 20."""
    return CifarResNet(stage_sizes(depth), **{"widths": (4, 8, 8), **fields})


def tiny_preact(**fields: Any) -> Any:
    """Blocks x + F(x); a projection reads the activated input, as the branch does."""
    sizes = fields.pop("stage_sizes", (2, 3, 2))
    return CifarPreAct(sizes, **{"widths": (4, 8, 8)[: len(sizes)], "shortcut": projection, **fields})


def tiny_vgg(stage_sizes: tuple[int, ...] = (1, 1, 1, 2, 3), **fields: Any) -> Any:
    """Each layer a convolution, batch norm and ReLU; five keep the shape."""
    model = flaxarch.create("vgg16_bn_cifar")
    widths = (4, 6, 6, 8, 8)[: len(stage_sizes)]
    return model.clone(**{"stage_sizes": stage_sizes, "widths": widths, **fields})


def tiny_densenet() -> Any:
    return flaxarch.create("densenet_40_12").clone(block_sizes=(2, 1), growth_rate=4)  # pyright: ignore


VECTORS = (1, 1, 8)


class DenseResidual(nn.Module):
    """x + W relu(V x + b), so many times, on vectors (N, 1, 1, 8): compiled in no time."""

    num_blocks: int
    num_classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        del train
        x = images
        for i in range(self.num_blocks):
            x = DenseBlock(name=f"block{i}")(x, None if gates is None else gates[i].reshape(-1, 1, 1, 1))
        return nn.Dense(self.num_classes, name="fc")(x[:, 0, 0])


class DenseBlock(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None) -> jax.Array:
        y = nn.relu(nn.Dense(x.shape[-1], name="dense1")(x))
        return residual(x, nn.Dense(x.shape[-1], name="dense2")(y), gate)


class ScaledSums(nn.Module):
    """x + a x, n times, and the mean of all pixels as logits: what its paths carry is known."""

    num_blocks: int
    scale: float
    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        x = images
        for i in range(self.num_blocks):
            x = Scaled(self.scale, name=f"block{i}")(x)
        return x.mean(axis=(1, 2))


class Scaled(nn.Module):
    scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Conv(x.shape[-1], (1, 1), use_bias=False, kernel_init=_scaled_identity(self.scale))(x)
        return residual(x, y, None)


def _scaled_identity(scale: float) -> Any:
    return lambda key, shape, dtype: scale * jnp.eye(shape[-1], dtype=dtype).reshape(shape)


def random_variables(
    model: Any, shape: tuple[int, ...] = SHAPE, seed: int = 0, dtype: Any = np.float32
) -> Any:
    """{"params", "batch_stats"}: kernels keep the scale of signals, no scale is 1, no mean or bias 0."""
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":
            x = rng.normal(0, math.sqrt(2 / math.prod(leaf.shape[:-1])), leaf.shape)
        elif name in ("scale", "var"):
            x = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            x = rng.normal(0, 0.2, leaf.shape)
        return x.astype(dtype)

    variables = jax.tree.map_with_path(draw, shapes)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def random_batch(
    num_images: int = 3, shape: tuple[int, ...] = SHAPE, seed: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Noise, and labels."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(num_images, *shape)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, 10, num_images))
