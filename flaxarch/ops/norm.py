"""Batch norm's two passes over its images, with gradients that take two passes more and no other.

The moments of each channel are sums over all pixels, and their gradient scales and shifts each channel; the
gradients of a scale and a shift are sums over all pixels again. These are primitives that are each other's
gradients, so that both sums of a pass are taken while x is read once. XLA's CPU backend would read it for
each, and write down what is summed.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from flaxarch.ops.bilinear import type_as, vary_as
from flaxarch.ops.lowering import apart, native_forms
from flaxarch.ops.sums import over_pixels


def moments(x: jax.Array, center: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means over all pixels of x - center and of its square: (..., C), (C,) -> (C,), (C,).

    Computed, and given, in float32 or wider. Raises ValueError for another shape of `center`.
    """
    _check(x, center)
    x = _float32_or_wider(x)
    if native_forms():
        shifted, pixels = x - _as_last(center, x), _pixels(x)
        return shifted.mean(pixels), (shifted * shifted).mean(pixels)
    sums = _bind(_moments, x, center.astype(x.dtype))
    mean, square = sums / jnp.asarray(x.size // x.shape[-1], x.dtype)
    return mean, square


def scale_and_shift(
    x: jax.Array, center: jax.Array, scale: jax.Array, shift: jax.Array | None = None
) -> jax.Array:
    """(x - center) * scale + shift, with x (..., C) and the others (C,), in float32 or wider.

    Raises ValueError for other shapes.
    """
    _check(x, center, scale, scale if shift is None else shift)
    x = _float32_or_wider(x)
    if native_forms():
        y = (x - _as_last(center, x)) * _as_last(scale, x)
        return y if shift is None else y + _as_last(shift, x)
    shift = jnp.zeros_like(scale) if shift is None else shift
    of_channels = (c.astype(x.dtype) for c in (center, scale, shift))
    return _bind(_scale_and_shift, x, *of_channels)


def _check(x: jax.Array, *of_channels: jax.Array) -> None:
    for array in of_channels:
        if array.shape != x.shape[-1:]:
            raise ValueError(
                f"x of shape {x.shape} has {x.shape[-1]} channels, and is given {array.shape} for them"
            )


def _float32_or_wider(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _as_last(c: jax.Array, x: jax.Array) -> jax.Array:
    return c.reshape((1,) * (x.ndim - 1) + c.shape)


def _pixels(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _sums(x: jax.Array, center: jax.Array) -> jax.Array:
    """The sums over pixels of x - center and of its square, (2, C)."""
    shifted = x - _as_last(center, x)
    return _sum_both(shifted, shifted * shifted)


def _products(a: jax.Array, x: jax.Array, center: jax.Array) -> jax.Array:
    """The sums over pixels of a and of a * (x - center), (2, C)."""
    return _sum_both(a, a * (x - _as_last(center, x)))


def _scaled(x: jax.Array, center: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    return (x - _as_last(center, x)) * _as_last(scale, x) + _as_last(shift, x)


def _sum_both(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.stack(over_pixels([term.reshape(-1, term.shape[-1]) for term in (a, b)]))


def _bind(primitive: Primitive, *arrays: jax.Array) -> jax.Array:
    """Its result; in `shard_map`, where some arrays may be the same on all devices and others not."""
    return primitive.bind(*(reduce(vary_as, arrays, array) for array in arrays))


def _primitive(name: str, form: Callable[..., jax.Array], shape: Callable[[Any], Any]) -> Primitive:
    """What computes `form`; where it is mapped over, as XLA does it."""
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(form))
    primitive.def_abstract_eval(lambda x, *_: type_as(x, shape(x), x.dtype))
    mlir.register_lowering(primitive, mlir.lower_fun(form, multiple_results=False))
    batching.primitive_batchers[primitive] = lambda args, axes: (jax.vmap(form, axes)(*args), 0)
    return primitive


_moments = _primitive("channel_moments", _sums, lambda x: (2, x.shape[-1]))
_inner = _primitive("channel_products", apart(_products, ()), lambda a: (2, a.shape[-1]))
_scale_and_shift = _primitive("scale_and_shift", _scaled, lambda x: x.shape)


def _moments_jvp(primals: Any, tangents: Any) -> Any:
    (x, center), (x_dot, center_dot) = primals, tangents
    sums = _bind(_moments, x, center)
    total = jnp.zeros_like(sums)
    if not isinstance(x_dot, ad.Zero):
        products = _bind(_inner, x_dot, x, center)
        total += products * jnp.asarray([[1], [2]], sums.dtype)
    if not isinstance(center_dot, ad.Zero):
        count = jnp.asarray(x.size // center.size, sums.dtype)
        total -= jnp.stack([center_dot * count, 2 * center_dot * sums[0]])
    return sums, total


def _inner_jvp(primals: Any, tangents: Any) -> Any:
    """Linear in `a`; what the others change is a plain sum: it is in derivatives of second order alone."""
    (a, x, center), (a_dot, x_dot, center_dot) = primals, tangents
    sums = _bind(_inner, a, x, center)
    total = jnp.zeros_like(sums)
    if not isinstance(a_dot, ad.Zero):
        total += _bind(_inner, a_dot, x, center)
    if not isinstance(x_dot, ad.Zero):
        total = total.at[1].add((a * x_dot).sum(_pixels(x)))
    if not isinstance(center_dot, ad.Zero):
        total = total.at[1].add(-center_dot * sums[0])
    return sums, total


def _scale_and_shift_jvp(primals: Any, tangents: Any) -> Any:
    """Linear in scale and shift; a change of the center is one of the shift."""
    (x, center, scale, shift), (x_dot, center_dot, scale_dot, shift_dot) = primals, tangents
    y = _bind(_scale_and_shift, x, center, scale, shift)
    scale_dot, shift_dot = ad.instantiate_zeros(scale_dot), ad.instantiate_zeros(shift_dot)
    if not isinstance(center_dot, ad.Zero):
        shift_dot -= center_dot * scale
    y_dot = _bind(_scale_and_shift, x, center, scale_dot, shift_dot)
    if not isinstance(x_dot, ad.Zero):
        y_dot += x_dot * _as_last(scale, x)
    return y, y_dot


def _inner_transposed(sums_bar: Any, a: Any, x: Any, center: Any) -> Any:
    del a  # in which alone it is transposed
    shift, scale = sums_bar
    return _bind(_scale_and_shift, x, center, scale, shift), None, None


def _scale_and_shift_transposed(y_bar: Any, x: Any, center: Any, scale: Any, shift: Any) -> Any:
    del scale, shift  # in which alone it is transposed
    shift_bar, scale_bar = _bind(_inner, y_bar, x, center)
    return None, None, scale_bar, shift_bar


ad.primitive_jvps[_moments] = _moments_jvp
ad.primitive_jvps[_inner] = _inner_jvp
ad.primitive_jvps[_scale_and_shift] = _scale_and_shift_jvp
ad.primitive_transposes[_inner] = _inner_transposed
ad.primitive_transposes[_scale_and_shift] = _scale_and_shift_transposed
