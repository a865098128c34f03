"""Operations that are linear in each of two arrays, with gradients of our own.

A bilinear y = f(x, w) has a gradient in x that is bilinear in the output's and w, and one in w that is
bilinear in x and the output's. The three are closed under differentiation: each one's gradients are the other
two. So three functions give derivatives of all orders, forward and backward, which neither `jax.custom_vjp`
nor `jax.custom_jvp` does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# (one array, the other, geometry) -> result; geometry is static and hashable
Form = Callable[[jax.Array, jax.Array, Any], jax.Array]


class Free(NamedTuple):
    """For each argument, an axis of it and the axis of the result that it becomes, item by item; or None.

    By it an array with a further axis is mapped over in one call.
    """

    first: tuple[int, int] | None
    second: tuple[int, int] | None


def bilinear(
    name: str,
    forward: tuple[Form, Free],
    x_gradient: tuple[Form, Free],
    w_gradient: tuple[Form, Free],
) -> Form:
    """A function that computes forward(x, w, geometry), and its gradients as the two others do.

    Args:
      name: of the operation, in jaxprs.
      forward: (x, w) -> y.
      x_gradient: (gradient of y, w) -> gradient of x; geometry must tell x's shape.
      w_gradient: (x, gradient of y) -> gradient of w; likewise.
    """
    y, dx, dw = (
        primitive(name + suffix, form, partial(_mapped, free))
        for suffix, (form, free) in (("", forward), ("_dx", x_gradient), ("_dw", w_gradient))
    )
    # For each, the gradient of its first and of its second argument, from the result's, r:
    ad.defbilinear(
        y,
        lambda r, _, w, geometry: bind(dx, r, w, geometry),
        lambda r, x, _, geometry: bind(dw, x, r, geometry),
    )
    ad.defbilinear(
        dx,
        lambda r, _, w, geometry: bind(y, r, w, geometry),
        lambda r, g, _, geometry: bind(dw, r, g, geometry),
    )
    ad.defbilinear(
        dw,
        lambda r, _, g, geometry: bind(dx, g, r, geometry),
        lambda r, x, _, geometry: bind(y, x, r, geometry),
    )
    return partial(bind, y)


def bind(primitive: Primitive, a: jax.Array, b: jax.Array, geometry: Any) -> jax.Array:
    """Its result; in `shard_map`, where one array may be the same on all devices and the other is not."""
    return primitive.bind(vary_as(a, b), vary_as(b, a), geometry=geometry)


def vary_as(x: jax.Array, other: jax.Array) -> jax.Array:
    """x, as an array that may differ on all devices on which the other may."""
    axes = _varying(jax.typeof(other)) - _varying(jax.typeof(x))
    return lax.pcast(x, tuple(axes), to="varying") if axes else x


def type_as(x: Any, shape: tuple[int, ...], dtype: Any) -> ShapedArray:
    """The type of such an array, which may differ on the devices on which one of type x may."""
    if _varying(x):
        return x.update(shape=shape, dtype=dtype, weak_type=False)
    return ShapedArray(shape, dtype)


def primitive(name: str, form: Form, mapped: Callable[..., Any]) -> Primitive:
    """What computes `form`; its rule for `vmap` is `mapped(primitive, args, axes, geometry=)`."""
    primitive = Primitive(name)

    def compute(a: jax.Array, b: jax.Array, *, geometry: Any) -> jax.Array:
        return form(a, b, geometry)

    def abstract(a: Any, b: Any, *, geometry: Any) -> Any:
        shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (a, b))
        result = jax.eval_shape(partial(compute, geometry=geometry), *shapes)
        return type_as(a, result.shape, result.dtype)

    primitive.def_impl(jax.jit(compute, static_argnames="geometry"))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    batching.primitive_batchers[primitive] = partial(mapped, primitive)
    return primitive


def _varying(array_type: Any) -> frozenset[Any]:
    """The axes of devices, in `shard_map`, on which an array may differ; none where that is not checked."""
    return getattr(getattr(array_type, "manual_axis_type", None), "varying", frozenset())


def _mapped(
    free: Free, primitive: Primitive, args: tuple[Any, Any], axes: tuple[Any, Any], *, geometry: Any
) -> tuple[jax.Array, int]:
    """The rule for `vmap`: in one call where only one array is mapped over, or in a loop."""
    (a, b), (a_axis, b_axis) = args, axes
    size = a.shape[a_axis] if a_axis is not None else b.shape[b_axis]
    if a_axis is not None and b_axis is None and free.first is not None:
        at, to = free.first
        y = bind(primitive, _merge(a, a_axis, at), b, geometry)
        return _split(y, size, to), to
    if b_axis is not None and a_axis is None and free.second is not None:
        at, to = free.second
        y = bind(primitive, a, _merge(b, b_axis, at), geometry)
        return _split(y, size, to), to

    def one(i: jax.Array) -> jax.Array:
        one_a, one_b = (
            x if axis is None else lax.dynamic_index_in_dim(x, i, axis, keepdims=False)
            for x, axis in ((a, a_axis), (b, b_axis))
        )
        return bind(primitive, one_a, one_b, geometry)

    return lax.map(one, jnp.arange(size)), 0


def _merge(x: jax.Array, mapped: int, at: int) -> jax.Array:
    """The mapped axis as a part of the one at `at`, counted without it."""
    x = jnp.moveaxis(x, mapped, at)
    return x.reshape(*x.shape[:at], -1, *x.shape[at + 2 :])


def _split(y: jax.Array, size: int, to: int) -> jax.Array:
    return y.reshape(*y.shape[:to], size, -1, *y.shape[to + 1 :])
