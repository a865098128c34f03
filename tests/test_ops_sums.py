"""Sums over pixels in pieces, and what is compiled apart."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxarch.layers import Conv
from flaxarch.ops import conv_general_dilated, max_pool
from flaxarch.ops.lowering import apart
from flaxarch.ops.sums import over_pixels


@pytest.mark.parametrize("shape", [(3, 28, 5), (2, 2, 14, 1), (29, 4), (13, 4), (2, 0, 3), (0, 15, 3)])
@pytest.mark.parametrize("number", [1, 3])
def test_sums_are_numpys(shape: tuple[int, ...], number: int):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        terms = [jnp.asarray(rng.normal(size=shape)) for _ in range(number)]
        sums = jax.jit(over_pixels)(terms)
    for found, term in zip(sums, terms, strict=True):
        expected = np.asarray(term).sum(tuple(range(term.ndim - 1)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def calls(function: Callable[..., Any], *args: jax.Array) -> int:
    """In the program that XLA makes of it."""
    program = jax.jit(function).lower(*args).compile().as_text()
    assert program is not None
    return program.count(" call(")


def test_what_is_apart_is_not_fused_with_what_is_around_it():
    def twice(x: jax.Array, factor: int) -> jax.Array:
        return jnp.where(x > 0, x * factor, x)  # with a function in it, which is inlined

    x = jnp.ones((64, 64))
    together, separate = twice, apart(twice, (1,))
    assert calls(lambda x: jnp.sin(together(jnp.cos(x), 2)), x) == 0
    assert calls(lambda x: jnp.sin(separate(jnp.cos(x), 2)), x) == 1
    assert calls(jax.grad(lambda x: jnp.sin(separate(jnp.cos(x), 2)).sum()), x) == 2


def test_a_batch_on_several_devices_stays_there():
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("devices",))
    x = jax.device_put(jnp.ones((4, 8, 8, 16)), NamedSharding(mesh, PartitionSpec("devices")))
    depthwise = Conv(16, (3, 3), feature_group_count=16, conv_general_dilated=conv_general_dilated)
    params = depthwise.init(jax.random.key(0), x)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return (max_pool(jnp.asarray(depthwise.apply(params, x)), (3, 3), (2, 2), 1) ** 2).sum()

    program = jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile().as_text()
    assert program is not None
    assert "f32[2,8,8,16]" in program  # each has half
    assert "all-gather" not in program


def test_what_is_apart_is_compiled_once_for_arguments_of_a_kind():
    traced = []

    def scaled(x: jax.Array, factor: int) -> jax.Array:
        traced.append(factor)
        return x * factor

    form = apart(scaled, (1,))
    for factor in (2, 2, 3):
        np.testing.assert_array_equal(form(jnp.ones(3), factor), np.full(3, factor))
    assert traced == [2, 3]
