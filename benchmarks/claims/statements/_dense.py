"""Networks of dense ReLU layers, which theory is about: plain and residual, without and with batch norm."""

from typing import ClassVar

import jax
from flax import linen as nn

from flaxarch.residual import residual


class Dense(nn.Module):
    """Dense layer, batch norm if asked for, ReLU: (N, C) -> (N, C)."""

    gain: float
    batch_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        init = nn.initializers.variance_scaling(2 * self.gain**2, "fan_in", "normal")
        x = nn.Dense(x.shape[-1], use_bias=False, kernel_init=init, name="fc")(x)
        if self.batch_norm:
            x = nn.BatchNorm(not train, use_scale=False, use_bias=False, name="bn")(x)
        return nn.relu(x)


class Plain(nn.Module):
    """(N, 1, 1, C) -> logits (N, 10): `depth` layers, one after the other."""

    depth: int
    gain: float = 1.0
    batch_norm: bool = False

    head: ClassVar[str] = "head"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images[:, 0, 0]
        for i in range(self.depth):
            x = Dense(self.gain, self.batch_norm, name=f"layer{i + 1}")(x, train=train)
        return nn.Dense(10, name="head")(x)


class Branch(nn.Module):
    """F(x): batch norm if asked for, ReLU, dense layer; it keeps the variance of what it is given."""

    batch_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.batch_norm:
            x = nn.BatchNorm(not train, use_scale=False, use_bias=False, name="bn")(x)
        return nn.Dense(x.shape[-1], use_bias=False, kernel_init=nn.initializers.he_normal(), name="fc")(
            nn.relu(x)
        )


class Residual(nn.Module):
    """(N, 1, 1, C) -> logits (N, 10): `depth` blocks x + F(x)."""

    depth: int
    batch_norm: bool = False

    head: ClassVar[str] = "head"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images[:, 0, 0]
        for i in range(self.depth):
            x = residual(x, Branch(self.batch_norm, name=f"block{i + 1}")(x, train=train), None)
        return nn.Dense(10, name="head")(x)
