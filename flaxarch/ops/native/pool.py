"""Max-pooling whose gradient goes to the first maximum of each window, and sums over windows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from flaxarch.ops.bilinear import bind, primitive, type_as
from flaxarch.ops.native.conv import Pads, convolve, fits, takes_type

_PLACES = 256  # in a window; they are counted in one byte


class Geometry(NamedTuple):
    """Of a pool; sizes are of the images and of the result."""

    input_size: tuple[int, int]
    output_size: tuple[int, int]
    window_shape: tuple[int, int]
    strides: tuple[int, int]
    pads: Pads

    def numbers(self) -> np.ndarray:
        """As the kernels take it."""
        return np.asarray((*self.window_shape, *self.strides, self.pads[0][0], self.pads[1][0]), np.int64)


def takes_pool(x: jax.Array, window_shape: tuple[int, int], pads: Pads) -> bool:
    """Whether the kernels can do it: float32 or bfloat16, no pad that crops, no window beyond 256."""
    return (
        x.ndim == 4
        and takes_type(x)
        and all(isinstance(n, int) and n > 0 for n in x.shape[1:])
        and window_shape[0] * window_shape[1] <= _PLACES
        and fits(x, window_shape, pads)
    )


def max_pool(x: jax.Array, window_shape: tuple[int, int], strides: tuple[int, int], pads: Pads) -> jax.Array:
    """(N, H, W, C) -> (N, H', W', C)."""
    size = (x.shape[1], x.shape[2])
    rows, columns = (
        (n + before + after - k) // s + 1
        for n, k, s, (before, after) in zip(size, window_shape, strides, pads, strict=True)
    )
    return _pool.bind(x, geometry=Geometry(size, (rows, columns), window_shape, strides, pads))[0]


def sum_pool(x: jax.Array, window_shape: tuple[int, int], strides: tuple[int, int], pads: Pads) -> jax.Array:
    """(N, H, W, C) -> (N, H', W', C): a depthwise convolution with ones."""
    ones = jnp.ones((*window_shape, 1, x.shape[-1]), x.dtype)
    return convolve(x, ones, strides, pads, (1, 1), x.shape[-1])


def _max_and_place(x: jax.Array, *, geometry: Geometry) -> Any:
    """The maxima, and which entry of its window, row by row, each one is."""
    shape = (x.shape[0], *geometry.output_size, x.shape[-1])
    results = jax.ShapeDtypeStruct(shape, x.dtype), jax.ShapeDtypeStruct(shape, jnp.uint8)
    return jax.ffi.ffi_call("flaxarch_max_pool", results)(x, geometry=geometry.numbers())


def _taken(x: jax.Array, place: jax.Array, geometry: Geometry) -> jax.Array:
    shape = (*place.shape[:-3], *geometry.output_size, x.shape[-1])
    return _call("flaxarch_max_pool_take", shape, x, place, geometry)


def _spread_out(y: jax.Array, place: jax.Array, geometry: Geometry) -> jax.Array:
    shape = (*place.shape[:-3], *geometry.input_size, y.shape[-1])
    return _call("flaxarch_max_pool_spread", shape, y, place, geometry)


def _call(target: str, shape: Any, values: jax.Array, place: jax.Array, geometry: Geometry) -> jax.Array:
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(shape, values.dtype))
    return call(values, place, geometry=geometry.numbers())  # pyright: ignore[reportReturnType]


def _pool_type(x: Any, *, geometry: Geometry) -> Any:
    shape = (x.shape[0], *geometry.output_size, x.shape[-1])
    return type_as(x, shape, x.dtype), type_as(x, shape, jnp.uint8)


def _pool_jvp(primals: Any, tangents: Any, *, geometry: Geometry) -> Any:
    y, place = _pool.bind(*primals, geometry=geometry)
    y_dot = bind(_take, tangents[0], place, geometry)
    return (y, place), (y_dot, ad.Zero(jax.typeof(place).to_tangent_aval()))


def _pool_mapped(args: Any, axes: Any, *, geometry: Geometry) -> Any:
    x = jnp.moveaxis(args[0], axes[0], 0)
    results = _pool.bind(x.reshape(-1, *x.shape[2:]), geometry=geometry)
    return [y.reshape(*x.shape[:2], *y.shape[1:]) for y in results], (0, 0)


_pool = Primitive("max_pool_and_place")
_pool.multiple_results = True
_pool.def_impl(jax.jit(_max_and_place, static_argnames="geometry"))
_pool.def_abstract_eval(_pool_type)
mlir.register_lowering(_pool, mlir.lower_fun(_max_and_place, multiple_results=True))
ad.primitive_jvps[_pool] = _pool_jvp
batching.primitive_batchers[_pool] = _pool_mapped


def _mapped(
    primitive: Primitive, args: tuple[Any, Any], axes: tuple[Any, Any], *, geometry: Geometry
) -> tuple[jax.Array, int]:
    """The rule for `vmap`, as for `_pool`: all are images."""
    size = next(x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
    values, place = (
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(args, axes, strict=True)
    )
    values, place = (x.reshape(-1, *x.shape[2:]) for x in (values, place))
    y = bind(primitive, values, place, geometry)
    return y.reshape(size, -1, *y.shape[1:]), 0


_take = primitive("max_pool_take", _taken, _mapped)
_spread = primitive("max_pool_spread", _spread_out, _mapped)
ad.defbilinear(_take, lambda r, _, place, geometry: bind(_spread, r, place, geometry), None)
ad.defbilinear(_spread, lambda r, _, place, geometry: bind(_take, r, place, geometry), None)
