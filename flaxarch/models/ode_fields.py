"""Blocks x + h F(x) whose F is a vector field of a known kind: stable, Hamiltonian, or 1-Lipschitz.

K is a 3x3 convolution, K^T its adjoint by the same kernel, s an activation that nowhere falls, N a norm or a
bias. With a bias, or batch norm in evaluation (without a scale, which might be negative), what is said of the
eigenvalues of F's Jacobian holds for all parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from flaxarch.layers import ModuleDef, he_fan_out
from flaxarch.ops import conv_general_dilated
from flaxarch.residual import residual


class Bias(nn.Module):
    """x + b, in the place of a norm: (N, H, W, C) -> (N, H, W, C)."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + _row(self.param("bias", nn.initializers.zeros, (x.shape[-1],)), self.dtype)


class TvNorm(nn.Module):
    """Each pixel's features over their length, scaled and shifted: (N, H, W, C) -> (N, H, W, C).

    "TV" normalisation of Ruthotto & Haber 2020; epsilon as in the authors' code.
    """

    dtype: DTypeLike = jnp.float32
    epsilon: float = 1e-4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x / jnp.sqrt((x * x).sum(axis=-1, keepdims=True) + self.epsilon)
        return x * _row(scale, self.dtype) + _row(bias, self.dtype)


def _row(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """For arithmetic with (N, H, W, C)."""
    return x.astype(dtype).reshape(1, 1, 1, -1)


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """K x, padded with zeros: (N, H, W, C) -> (N, H, W, features)."""
    numbers = ("NHWC", "HWIO", "NHWC")
    padding = ((1, 1), (1, 1))
    return conv_general_dilated(x, kernel.astype(x.dtype), (1, 1), padding, dimension_numbers=numbers)


def adjoint(kernel: jax.Array) -> jax.Array:
    """The kernel of K^T: that of K, turned around, with inputs and outputs exchanged."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def squared_norm_bound(kernel: jax.Array, grid: int = 8, squarings: int = 3) -> jax.Array:
    """A number that ||K||^2 does not exceed, whatever the image's size; it may be differentiated.

    K padded with zeros is a part of K on the plane, whose norm is the largest singular value of its symbol, a
    polynomial of degree (side - 1) / 2 in each frequency. Between the points of a grid such a polynomial is
    at most its largest value there over cos(pi degree / grid), once for each axis (Ehlich & Zeller 1964). On
    the grid it is bounded by Gram's iteration, ||G|| <= ||G^(2^n)||_F^(1 / 2^n) (Delattre et al. 2023,
    https://arxiv.org/abs/2305.16173).
    """
    degree = (kernel.shape[0] - 1) / 2
    symbol = jnp.fft.rfft2(kernel, (grid, grid), axes=(0, 1))
    power = jnp.conj(symbol.swapaxes(-1, -2)) @ symbol
    log_norm = jnp.zeros((), kernel.dtype)
    for n in range(squarings + 1):  # each power is scaled, so that none overflows
        power = power if n == 0 else power @ power
        norm = jnp.linalg.norm(power, axis=(-2, -1)).max() + jnp.finfo(kernel.dtype).tiny
        power, log_norm = power / norm, 2 * log_norm + jnp.log(norm)
    return jnp.exp(log_norm / 2**squarings) / np.cos(np.pi * degree / grid) ** 4


class Field(nn.Module, ABC):
    """x + g h F(x): (N, H, W, C) -> (N, H, W, C); given `onto`, that + g h F(x). `slope` is F."""

    features: int
    conv: ModuleDef
    norm: ModuleDef
    step: float = 1.0  # h
    act: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(
        self, x: jax.Array, gate: jax.Array | None = None, *, onto: jax.Array | None = None
    ) -> jax.Array:
        y = self.slope(x)
        return residual(x if onto is None else onto, y if self.step == 1 else self.step * y, gate)

    @abstractmethod
    def slope(self, x: jax.Array) -> jax.Array:
        """F(x)."""

    def square_kernel(self) -> jax.Array:
        """Of the block's one convolution, of as many features in as out."""
        return self.param("kernel", he_fan_out, (3, 3, self.features, self.features))


class Free(Field):
    """F(x) = K2 s(N(K1 s(N(x)))), of any kind: He et al. 2016b, Fig. 4e."""

    def slope(self, x: jax.Array) -> jax.Array:
        """F(x)."""
        for i in (1, 2):
            x = self.act(self.norm(name=f"norm{i}")(x))
            x = self.conv(self.features, (3, 3), padding=1, name=f"conv{i}")(x)
        return x


class Antisymmetric(Field):
    """F(x) = s(N((K - K^T - c) x)): the Jacobian D (K - K^T - c), D >= 0, has eigenvalues of real part <= 0.

    Haber & Ruthotto 2017, https://arxiv.org/abs/1705.03341. Without damping c all are imaginary,
    and Euler's method grows; with it, it is stable up to h = 2 c / (c^2 + ||K - K^T||^2) for D = 1.
    """

    damping: float = 0.0  # c

    def slope(self, x: jax.Array) -> jax.Array:
        """F(x)."""
        kernel = self.square_kernel()
        y = conv3x3(x, kernel - adjoint(kernel)) - self.damping * x
        return self.act(self.norm(name="norm1")(y))


class Parabolic(Field):
    """F(x) = -K^T s(N(K x)): the Jacobian -K^T D K is symmetric, with no eigenvalue above 0.

    Ruthotto & Haber 2020, https://arxiv.org/abs/1804.04272: Euler's method does not expand for
    h <= 2 / ||K||^2, where D <= 1.
    """

    def slope(self, x: jax.Array) -> jax.Array:
        """F(x)."""
        kernel = self.square_kernel()
        return -conv3x3(self.act(self.norm(name="norm1")(conv3x3(x, kernel))), adjoint(kernel))


class ConvexPotential(Field):
    """F(x) = -(2 / ||K||^2) K^T s(K x + b), by which x + h F(x) is 1-Lipschitz for h from 0 to 1.

    Meunier et al. 2022, https://arxiv.org/abs/2110.12690. Their power iteration approaches the
    norm from below; here it is bounded from above, so that the bound holds at each step of training.
    """

    def slope(self, x: jax.Array) -> jax.Array:
        """F(x)."""
        kernel = self.square_kernel()
        y = self.act(Bias(x.dtype, name="norm1")(conv3x3(x, kernel)))
        scale = 2 / jnp.maximum(squared_norm_bound(kernel), jnp.finfo(kernel.dtype).tiny)
        return -scale.astype(x.dtype) * conv3x3(y, adjoint(kernel))


class Pair(nn.Module):
    """y + h F(z), then z + h G(y), of the halves [y, z] of the features: (N, H, W, C) -> (N, H, W, C).

    RevNet (Gomez et al. 2017), and Verlet's method for y' = F(z), z' = G(y). F and G are the
    branches of two `Field`s. With `undo` it goes back from what it gives to what it was given.
    """

    features: int
    conv: ModuleDef
    norm: ModuleDef
    step: float = 1.0  # h
    act: Callable[[jax.Array], jax.Array] = nn.relu
    fields: tuple[ModuleDef, ModuleDef] = (Free, Free)  # of F and of G
    signs: tuple[int, int] = (1, 1)  # by which they are multiplied

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None = None, *, undo: bool = False) -> jax.Array:
        if self.features % 2:
            raise ValueError(f"{self.features} features have no halves: a pair needs an even number")
        h = -self.step if undo else self.step
        f, g = (
            field(self.features // 2, self.conv, self.norm, sign * h, self.act, name=name)
            for field, sign, name in zip(self.fields, self.signs, ("f", "g"), strict=True)
        )
        y, z = jnp.split(x, 2, axis=-1)
        if undo:
            z = g(y, gate, onto=z)
            return jnp.concatenate([f(z, gate, onto=y), z], axis=-1)
        y = f(z, gate, onto=y)
        return jnp.concatenate([y, g(y, gate, onto=z)], axis=-1)


# y' = K1^T s(N(K1 z)), z' = -K2^T s(N(K2 y)): Chang et al. 2018, https://arxiv.org/abs/1709.03698
Hamiltonian = partial(Pair, fields=(Parabolic, Parabolic), signs=(-1, 1))
