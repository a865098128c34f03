"""Max-pooling on CPU: the largest of the image's shifted views; its gradient goes to the first of them.

XLA's own forms, of the gradient above all, take several times as long. Where there is something to
differentiate, the maxima come with their places. What another image has in these is linear in that image, and
a gradient is spread to them: two operations that are each other's gradients, so that there are derivatives of
all orders, forward and backward.
"""

from functools import partial, reduce
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from flaxarch.ops.bilinear import bind, primitive
from flaxarch.ops.dense import Pads
from flaxarch.ops.lowering import apart


class Geometry(NamedTuple):
    """Of a pool, in height and width; sizes are of the images and of the result, which is not empty."""

    input_size: tuple[int, int]
    output_size: tuple[int, int]
    window_shape: tuple[int, int]
    strides: tuple[int, int]
    pads: Pads


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, geometry: Geometry) -> jax.Array:
    """(N, H, W, C) -> (N, H', W', C)."""
    return _largest(wide(x), geometry).astype(x.dtype)


@max_pool.defjvp
def _max_pool_jvp(geometry: Geometry, primals: Any, tangents: Any) -> Any:
    y, place = _max_and_place(*primals, geometry)
    return y, bind(_take, tangents[0], place, geometry)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_and_place(x: jax.Array, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
    largest, place = _largest_and_place(wide(x), geometry)
    return largest.astype(x.dtype), place


@_max_and_place.defjvp
def _max_and_place_jvp(geometry: Geometry, primals: Any, tangents: Any) -> Any:
    """Of derivatives of second order; places do not move."""
    y, place = _max_and_place(*primals, geometry)
    return (y, place), (bind(_take, tangents[0], place, geometry), np.zeros(place.shape, jax.dtypes.float0))


def shifted(x: jax.Array, geometry: Geometry, fill: float) -> list[jax.Array]:
    """For each entry of the window, row by row, what the windows hold there: (N, H', W', C)."""
    x = lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), *((*pad, 0) for pad in geometry.pads), (0, 0, 0)))
    (height, width), (step_y, step_x) = geometry.output_size, geometry.strides
    return [
        lax.slice(
            x,
            (0, i, j, 0),
            (x.shape[0], i + (height - 1) * step_y + 1, j + (width - 1) * step_x + 1, x.shape[3]),
            (1, step_y, step_x, 1),
        )
        for i, j in _entries(geometry)
    ]


def wide(x: jax.Array) -> jax.Array:
    """As float32, if it is bfloat16: XLA would go through that number by number, and round each sum."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _entries(geometry: Geometry) -> list[tuple[int, int]]:
    rows, columns = geometry.window_shape
    return list(product(range(rows), range(columns)))


@partial(apart, static=(1,))
def _largest(x: jax.Array, geometry: Geometry) -> jax.Array:
    return reduce(jnp.maximum, shifted(x, geometry, -jnp.inf))


@partial(apart, static=(1,))
def _largest_and_place(x: jax.Array, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
    """And which entry of its window, row by row, each maximum is."""
    largest, *others = shifted(x, geometry, -jnp.inf)
    place = jnp.zeros(largest.shape, jnp.uint8 if len(others) < 256 else jnp.uint32)
    for i, value in enumerate(others, start=1):
        place = lax.select(value > largest, jnp.full(place.shape, i, place.dtype), place)
        largest = jnp.maximum(largest, value)
    return largest, place


@apart
def _at_place(x: jax.Array, place: jax.Array, geometry: Geometry) -> jax.Array:
    """What the images have in these places."""
    views = shifted(x, geometry, 0.0)
    return sum((jnp.where(place == i, view, 0) for i, view in enumerate(views)), jnp.zeros((), x.dtype))


@apart
def _to_place(y: jax.Array, place: jax.Array, geometry: Geometry) -> jax.Array:
    """Zeros, and y in these places, summed up."""

    def to_entry(y: jax.Array, entry: tuple[int, int]) -> jax.Array:
        firsts = [i - before for i, (before, _) in zip(entry, geometry.pads, strict=True)]
        pads = [
            (first, n - (m - 1) * s - 1 - first, s - 1)
            for first, n, m, s in zip(
                firsts, geometry.input_size, geometry.output_size, geometry.strides, strict=True
            )
        ]
        return lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), *pads, (0, 0, 0)))

    parts = [to_entry(jnp.where(place == i, y, 0), entry) for i, entry in enumerate(_entries(geometry))]
    return sum(parts[1:], parts[0])


def _mapped(
    primitive: Primitive, args: tuple[Any, Any], axes: tuple[Any, Any], *, geometry: Geometry
) -> tuple[jax.Array, int]:
    """The rule for `vmap`: all are images."""
    size = next(x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
    values, place = (
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(args, axes, strict=True)
    )
    values, place = (x.reshape(-1, *x.shape[2:]) for x in (values, place))
    y = bind(primitive, values, place, geometry)
    return y.reshape(size, -1, *y.shape[1:]), 0


_take = primitive("max_pool_take", lambda x, *at: _at_place(wide(x), *at).astype(x.dtype), _mapped)
_spread = primitive("max_pool_spread", lambda y, *at: _to_place(wide(y), *at).astype(y.dtype), _mapped)
ad.defbilinear(_take, lambda r, _, place, geometry: bind(_spread, r, place, geometry), None)
ad.defbilinear(_spread, lambda r, _, place, geometry: bind(_take, r, place, geometry), None)
