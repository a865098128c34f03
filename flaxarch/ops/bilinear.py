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
        _primitive(name + suffix, *form)
        for suffix, form in (("", forward), ("_dx", x_gradient), ("_dw", w_gradient))
    )
    # For each, the gradient of its first and of its second argument, from the result's, r:
    ad.defbilinear(
        y,
        lambda r, _, w, geometry: dx.bind(r, w, geometry=geometry),
        lambda r, x, _, geometry: dw.bind(x, r, geometry=geometry),
    )
    ad.defbilinear(
        dx,
        lambda r, _, w, geometry: y.bind(r, w, geometry=geometry),
        lambda r, g, _, geometry: dw.bind(r, g, geometry=geometry),
    )
    ad.defbilinear(
        dw,
        lambda r, _, g, geometry: dx.bind(g, r, geometry=geometry),
        lambda r, x, _, geometry: y.bind(x, r, geometry=geometry),
    )
    return lambda x, w, geometry: y.bind(x, w, geometry=geometry)


def _primitive(name: str, form: Form, free: Free) -> Primitive:
    primitive = Primitive(name)

    def compute(a: jax.Array, b: jax.Array, *, geometry: Any) -> jax.Array:
        return form(a, b, geometry)

    def abstract(a: Any, b: Any, *, geometry: Any) -> Any:
        shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (a, b))
        result = jax.eval_shape(partial(compute, geometry=geometry), *shapes)
        return ShapedArray(result.shape, result.dtype)

    primitive.def_impl(jax.jit(compute, static_argnames="geometry"))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    batching.primitive_batchers[primitive] = partial(_mapped, primitive, free)
    return primitive


def _mapped(
    primitive: Primitive, free: Free, args: tuple[Any, Any], axes: tuple[Any, Any], *, geometry: Any
) -> tuple[jax.Array, int]:
    """The rule for `vmap`: in one call where only one array is mapped over, or in a loop."""
    (a, b), (a_axis, b_axis) = args, axes
    size = a.shape[a_axis] if a_axis is not None else b.shape[b_axis]
    if a_axis is not None and b_axis is None and free.first is not None:
        at, to = free.first
        y = primitive.bind(_merge(a, a_axis, at), b, geometry=geometry)
        return _split(y, size, to), to
    if b_axis is not None and a_axis is None and free.second is not None:
        at, to = free.second
        y = primitive.bind(a, _merge(b, b_axis, at), geometry=geometry)
        return _split(y, size, to), to

    def one(i: jax.Array) -> jax.Array:
        pair = (
            x if axis is None else lax.dynamic_index_in_dim(x, i, axis, keepdims=False)
            for x, axis in ((a, a_axis), (b, b_axis))
        )
        return primitive.bind(*pair, geometry=geometry)

    return lax.map(one, jnp.arange(size)), 0


def _merge(x: jax.Array, mapped: int, at: int) -> jax.Array:
    """The mapped axis as a part of the one at `at`, counted without it."""
    x = jnp.moveaxis(x, mapped, at)
    return x.reshape(*x.shape[:at], -1, *x.shape[at + 2 :])


def _split(y: jax.Array, size: int, to: int) -> jax.Array:
    return y.reshape(*y.shape[:to], size, -1, *y.shape[to + 1 :])
