"""Sums over all pixels for each channel, two at a time: what batch norm and its gradient need."""

import jax
import jax.numpy as jnp


def takes_norm(x: jax.Array) -> bool:
    """Whether the kernels can do it: float32, nothing empty."""
    return x.dtype == jnp.float32 and x.ndim > 1 and all(isinstance(n, int) and n > 0 for n in x.shape)


def moments(x: jax.Array, center: jax.Array) -> jax.Array:
    """The sums over pixels of x - center and of its square: (..., C), (C,) -> (2, C)."""
    return _call("flaxarch_moments", x, center)


def products(a: jax.Array, x: jax.Array, center: jax.Array) -> jax.Array:
    """The sums over pixels of a and of a * (x - center): (..., C), (..., C), (C,) -> (2, C)."""
    return _call("flaxarch_products", a, x, center)


def _call(target: str, *arrays: jax.Array) -> jax.Array:
    result = jax.ShapeDtypeStruct((2, arrays[-1].size), jnp.float32)
    return jax.ffi.ffi_call(target, result)(*arrays)  # pyright: ignore[reportReturnType]
