"""Convolution in the CPU's form against lax's own, over random shapes and under every transformation."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flaxarch.ops import conv_general_dilated, use_native_forms


class Case(NamedTuple):
    """Shapes of a convolution, and its arguments."""

    images: tuple[int, int, int, int]
    kernel: tuple[int, int, int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int

    def arrays(self, dtype: Any) -> tuple[jax.Array, jax.Array]:
        rng = np.random.default_rng(sum(self.images))
        return tuple(jnp.asarray(rng.normal(size=s), dtype) for s in (self.images, self.kernel))  # pyright: ignore[reportReturnType]

    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        return conv_general_dilated(
            x,
            w,
            self.strides,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )


def random_case(seed: int) -> Case:
    """Any but those whose output is empty; also pads that crop, and strides over what no window sees."""
    draw = random.Random(seed).randint
    while True:
        size, window = (draw(1, 12), draw(1, 12)), (draw(1, 5), draw(1, 5))
        strides, dilation = (draw(1, 3), draw(1, 3)), (draw(1, 3), draw(1, 3))
        padding = ((draw(-1, 4), draw(-1, 4)), (draw(-1, 4), draw(-1, 4)))
        groups = draw(1, 4) if draw(0, 1) else 1
        channels, features = groups * (draw(1, 3) if draw(0, 2) else 1), groups * draw(1, 3)
        padded = [n + sum(pads) for n, pads in zip(size, padding, strict=True)]
        reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        if all(n >= r for n, r in zip(padded, reach, strict=True)):
            images = (draw(1, 3), *size, channels)
            return Case(images, (*window, channels // groups, features), strides, padding, dilation, groups)


def both(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Results in the CPU's form and in lax's own; a new function each, for what was traced is kept."""
    results = []
    for native in (False, True):
        with use_native_forms(native):
            results.append(jax.jit(lambda *args: function(*args))(*args))
    return results[0], results[1]


def errors(ours: Any, expected: Any) -> list[float]:
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True)
    return [float(jnp.abs(a - b).max() / (jnp.abs(b).max() + 1)) for a, b in pairs]


def value_and_gradients(case: Case) -> Callable[..., Any]:
    def run(x: jax.Array, w: jax.Array) -> Any:
        y, pull = jax.vjp(case, x, w)
        return y, pull(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return run


def check(seed: int, dtype: Any, tolerance: float) -> None:
    case = random_case(seed)
    with jax.enable_x64(dtype == jnp.float64):
        ours, lax_own = both(value_and_gradients(case), *case.arrays(dtype))
        assert max(errors(ours, lax_own)) < tolerance, case


@pytest.mark.parametrize("seed", range(16))
def test_convolution_of_random_shapes_equals_lax_in_float64(seed: int):
    check(seed, jnp.float64, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 500, 50))
def test_500_convolutions_of_random_shapes_equal_lax(first: int):
    for seed in range(first, first + 50):
        check(seed, jnp.float64, 1e-10)
        check(seed, jnp.float32, 1e-5)


CASE = Case((2, 7, 6, 3), (3, 2, 3, 4), (2, 1), ((1, 1), (0, 1)), (1, 2), 1)


def of_pairs(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.stack([x, 2 * x + 1]), jnp.stack([w, 1 - w])


def in_scan(x: jax.Array, w: jax.Array) -> Any:
    def loss(w: jax.Array) -> jax.Array:
        def body(total: jax.Array, factor: jax.Array) -> tuple[jax.Array, None]:
            return total + (CASE(factor * x, w) ** 2).sum(), None

        return lax.scan(body, jnp.zeros((), x.dtype), jnp.arange(1, 4, dtype=x.dtype))[0]

    return jax.grad(loss)(w)


TRANSFORMED: dict[str, Callable[[jax.Array, jax.Array], Any]] = {
    "jvp": lambda x, w: jax.jvp(CASE, (x, w), (jnp.cos(x), jnp.sin(w))),
    "jvp of one": lambda x, w: jax.jvp(lambda x: CASE(x, w), (x,), (jnp.cos(x),)),
    "second derivatives": lambda x, w: jax.grad(
        lambda x, w: jnp.sin(jax.grad(lambda w: jnp.sin(CASE(x, w)).sum())(w)).sum(), (0, 1)
    )(x, w),
    "forward over reverse": lambda x, w: jax.jvp(
        jax.grad(lambda x: (CASE(x, w) ** 3).sum()), (x,), (jnp.cos(x),)
    ),
    "vmap of images": lambda x, w: jax.vmap(CASE, (0, None))(of_pairs(x, w)[0], w),
    "vmap of kernels": lambda x, w: jax.vmap(CASE, (None, 0))(x, of_pairs(x, w)[1]),
    "vmap of both": lambda x, w: jax.vmap(CASE)(*of_pairs(x, w)),
    "gradients of each": lambda x, w: jax.vmap(
        jax.grad(lambda x, w: (CASE(x, w) ** 2).sum(), (0, 1)), (0, None)
    )(of_pairs(x, w)[0], w),
    "gradients, kernels mapped at the end": lambda x, w: jax.vmap(
        jax.grad(lambda x, w: (CASE(x, w) ** 2).sum(), (0, 1)), (None, -1), -1
    )(x, jnp.stack([w, 1 - w], -1)),
    "Jacobian": lambda x, w: jax.jacrev(lambda w: CASE(x, w).sum((0, 3)))(w),
    "scan": in_scan,
    "cond": lambda x, w: jax.grad(
        lambda w: lax.cond(w.sum() > -1e9, lambda w: (CASE(x, w) ** 2).sum(), lambda w: w.sum(), w)
    )(w),
    "remat": lambda x, w: jax.grad(jax.checkpoint(lambda w: jnp.sin(CASE(x, w)).sum()))(w),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_convolution_equals_lax_under(name: str):
    with jax.enable_x64(True):
        ours, expected = both(TRANSFORMED[name], *CASE.arrays(jnp.float64))
        assert max(errors(ours, expected)) < 1e-12


def test_convolutions_of_each_device_have_their_own_gradients():
    devices = jax.local_device_count()
    x, w = CASE.arrays(jnp.float32)
    x = jnp.stack([x * i for i in range(1, devices + 1)])

    def gradient(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.pmean(jax.grad(lambda w: (CASE(x, w) ** 2).mean())(w), "devices")

    results = []
    for native in (False, True):
        with use_native_forms(native):
            results.append(jax.pmap(lambda x, w: gradient(x, w), "devices", in_axes=(0, None))(x, w))
    assert max(errors(*results)) < 1e-5


def test_bfloat16_stays_bfloat16_and_near_float32():
    x, w = CASE.arrays(jnp.bfloat16)
    y, gradients = value_and_gradients(CASE)(x, w)
    exact = value_and_gradients(CASE)(x.astype(jnp.float32), w.astype(jnp.float32))
    for a, b in zip(jax.tree.leaves((y, gradients)), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0, atol=2**-6 * float(jnp.abs(b).max()))
