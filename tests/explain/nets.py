"""Networks small enough to work their maps out by hand."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from tests.depth.nets import random_variables, tiny_densenet, tiny_resnet

__all__ = ["Blur", "ClassMaps", "Linear", "Stack", "random_variables", "tiny_densenet", "tiny_resnet"]


class Linear(nn.Module):
    """Logits that are linear in the image: a dense layer of its values."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        return nn.Dense(self.num_classes, name="fc")(images.reshape(len(images), -1))


class Stack(nn.Module):
    """Dense layers with an activation between them, on images of one pixel."""

    act: Callable[[jax.Array], jax.Array] = nn.relu
    widths: tuple[int, ...] = (6, 5)
    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        x = images[:, 0, 0]
        for i, width in enumerate(self.widths):
            x = self.act(nn.Dense(width, name=f"dense{i}")(x))
        return nn.Dense(self.num_classes, name="fc")(x)


class ClassMaps(nn.Module):
    """As the Network in Network ends: a map of each class, activated, and its mean the logit."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        x = nn.relu(nn.Conv(5, (3, 3), name="conv")(images))
        return nn.relu(nn.Conv(self.num_classes, (1, 1), name="maps")(x)).mean(axis=(1, 2))


class Blur(nn.Module):
    """Linear 3x3 convolutions without bias, each padded, and the mean as logits."""

    num_layers: int
    num_classes: int = 2

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        x = images
        for i in range(self.num_layers):
            x = nn.Conv(1, (3, 3), use_bias=False, name=f"conv{i}")(x)
        return nn.Dense(self.num_classes, name="fc")(x.mean(axis=(1, 2)))


def ones(model: Any, shape: tuple[int, int, int]) -> Any:
    """Variables of nothing but ones."""
    variables = random_variables(model, shape)
    return jax.tree.map(np.ones_like, variables)


def apply(model: Any, variables: Any, images: Any) -> np.ndarray:
    """The logits, from the module itself."""
    return np.asarray(jax.jit(partial(model.apply, train=False))(variables, images))


def random_images(num_images: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Noise."""
    return np.random.default_rng(1).normal(size=(num_images, *shape)).astype(np.float32)
