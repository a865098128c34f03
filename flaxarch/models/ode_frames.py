"""What stands around the stages of networks of differential equations: opening, connectors, pools, head.

Ruthotto & Haber 2020, https://arxiv.org/abs/1804.04272, open by a 3x3 convolution and connect by 1x1
convolutions and mean pools. A 1-Lipschitz network (Meunier et al. 2022, https://arxiv.org/abs/2110.12690)
has zeros for new features, and normalised columns in its last layer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import ModuleDef, torch_uniform
from flaxarch.models.resnet import halve
from flaxarch.ops import avg_pool, global_avg_pool


@dataclass(frozen=True)
class Frame:
    """What stands around the stages."""

    opening: Callable[[Any, jax.Array, int, ModuleDef, ModuleDef], jax.Array]  # to so many features
    connector: Callable[[jax.Array, int, ModuleDef, ModuleDef, str], jax.Array]  # with a name
    pool: Callable[[jax.Array], jax.Array]  # to half of H and W
    head: Callable[[Any, jax.Array], jax.Array]  # to logits


def _conv_opening(
    network: Any, images: jax.Array, features: int, conv: ModuleDef, norm: ModuleDef
) -> jax.Array:
    """3x3 convolution, batch norm, ReLU."""
    del network
    return nn.relu(norm(name="bn1")(conv(features, (3, 3), padding=1, name="conv1")(images)))


def _conv_connector(x: jax.Array, features: int, conv: ModuleDef, norm: ModuleDef, name: str) -> jax.Array:
    """1x1 convolution, batch norm, ReLU."""
    return nn.relu(norm(name=f"{name}_bn")(conv(features, (1, 1), name=f"{name}_conv")(x)))


def _dense_head(network: Any, x: jax.Array) -> jax.Array:
    x = global_avg_pool(x)
    return network.conventions.dense(network.num_classes, x.shape[-1], name="fc")(x)


def pad_features(x: jax.Array, features: int) -> jax.Array:
    """(N, H, W, C) -> (N, H, W, features), with zeros behind."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


class NormalisedDense(nn.Module):
    """x W + b with columns of W of length 1, so that no logit expands: Meunier et al. 2022."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", torch_uniform, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x.astype(kernel.dtype) @ (kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)) + bias[None]


def _padding_opening(
    network: Any, images: jax.Array, features: int, conv: ModuleDef, norm: ModuleDef
) -> jax.Array:
    """Features of zeros behind the image's."""
    del network, conv, norm
    if images.shape[-1] > features:
        raise ValueError(f"{images.shape[-1]} channels are not padded to {features} features: take more")
    return pad_features(images, features)


def _padding_connector(x: jax.Array, features: int, conv: ModuleDef, norm: ModuleDef, name: str) -> jax.Array:
    del conv, norm, name
    return pad_features(x, features)


def _half_sums(x: jax.Array) -> jax.Array:
    """Sums over 2x2 pixels, over the root of their number; an odd row or column is left out."""
    return 2 * avg_pool(x, (2, 2), (2, 2))


def _normalised_head(network: Any, x: jax.Array) -> jax.Array:
    """Sums over pixels, over the root of their number, which do not expand; then normalised columns."""
    x = x.sum(axis=(1, 2)) / math.sqrt(x.shape[1] * x.shape[2])
    return NormalisedDense(network.num_classes, name="fc")(x)


CONVOLUTIONS = Frame(_conv_opening, _conv_connector, halve, _dense_head)
PADDING = Frame(_padding_opening, _padding_connector, _half_sums, _normalised_head)  # 1-Lipschitz
