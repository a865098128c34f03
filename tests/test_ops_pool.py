"""Pooling: the forms for CPU against lax's own, values and derivatives of every kind."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from flaxarch.ops import avg_pool, global_avg_pool, max_pool, use_native_forms
from tests.test_ops import assert_close, both_forms, normal
from tests.test_ops_random import both, errors


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((3, 3), (2, 2), 1),
        ((2, 2), (2, 2), 0),
        ((3, 3), (1, 1), 1),
        ((3, 2), (2, 1), ((0, 1), (1, 0))),
        ((2, 3), (3, 4), 0),  # rows and columns that no window sees
        ((20, 13), (1, 1), ((10, 0), (1, 1))),  # more entries than a byte counts
    ],
)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_and_its_gradient_equal_lax(window, strides, padding, ties: bool):
    x = normal(0, (2, 10, 11, 5))
    if ties:
        x = jnp.round(jax.nn.relu(x))  # many windows whose maximum stands in several places
    ours, native = both_forms(partial(max_pool, window_shape=window, strides=strides, padding=padding), x)
    assert_close(ours, native)


def test_max_pools_gradient_survives_compilation_with_what_comes_before():
    # XLA computes the pool's input anew where it is cheap to, and may round it otherwise each time.
    def loss(x: jax.Array) -> jax.Array:
        x = jax.nn.relu(
            (x - x.mean((0, 1, 2), keepdims=True)) * lax.rsqrt(x.var((0, 1, 2), keepdims=True)) * 1.3
        )
        y = max_pool(x, (3, 3), (2, 2), padding=1)
        return (y * normal(9, y.shape)).sum()

    gradients = []
    for native in (False, True):
        with use_native_forms(native):
            gradients.append(jax.jit(jax.grad(loss))(normal(0, (4, 33, 33, 16))))
    assert_close(*gradients)


def test_max_pool_has_forward_derivatives_too():
    x, direction = normal(0, (1, 6, 6, 3)), normal(1, (1, 6, 6, 3))
    pool = partial(max_pool, window_shape=(2, 2), strides=(2, 2))
    y, tangent = jax.jvp(pool, (x,), (direction,))
    step = 1e-3
    np.testing.assert_allclose(tangent, (pool(x + step * direction) - y) / step, atol=2e-3)


def test_max_pool_pads_with_minus_infinity():
    pooled = max_pool(-jnp.ones((1, 4, 4, 1)), (3, 3), (2, 2), padding=1)
    chex.assert_trees_all_equal(pooled, -jnp.ones((1, 2, 2, 1)))


def test_avg_pool_counts_padding_or_leaves_it_out():
    x = jnp.ones((1, 3, 3, 1))
    counted = avg_pool(x, (2, 2), (2, 2), padding=((0, 1), (0, 1)))
    left_out = avg_pool(x, (2, 2), (2, 2), padding=((0, 1), (0, 1)), count_padding=False)
    np.testing.assert_allclose(counted[0, :, :, 0], [[1, 0.5], [0.5, 0.25]])
    np.testing.assert_allclose(left_out[0, :, :, 0], [[1, 1], [1, 1]])


def test_global_avg_pool_is_the_mean_over_space():
    x = normal(0, (2, 3, 5, 4))
    np.testing.assert_allclose(global_avg_pool(x), np.asarray(x).mean(axis=(1, 2)), rtol=1e-5)


def test_max_pool_sums_bfloat16_gradients_in_float32():
    x, g = normal(0, (2, 9, 9, 3)).astype(jnp.bfloat16), normal(1, (2, 4, 4, 3)).astype(jnp.bfloat16)
    y, pull = jax.vjp(lambda x: max_pool(x, (3, 3), (2, 2)), x)
    wide, wide_pull = jax.vjp(lambda x: max_pool(x, (3, 3), (2, 2)), x.astype(jnp.float32))
    assert jnp.array_equal(y, wide.astype(jnp.bfloat16))
    assert jnp.array_equal(pull(g)[0], wide_pull(g.astype(jnp.float32))[0].astype(jnp.bfloat16))


def test_max_pool_can_be_mapped_and_derived_in_any_order():
    x = normal(0, (3, 2, 8, 8, 5))

    def loss(x: jax.Array) -> jax.Array:
        return (max_pool(x, (3, 3), (2, 2), 1) ** 3).sum()

    def run(x: jax.Array) -> Any:
        hessian_times = jax.vmap(lambda x: jax.jvp(jax.grad(loss), (x,), (jnp.cos(x),))[1])(x)
        twice = jax.grad(lambda x: jnp.sin(jax.grad(loss)(x)).sum())(x[0])
        forward = jax.jvp(lambda a: jax.jvp(loss, (a,), (jnp.sin(a),))[1], (x[0],), (x[1],))
        one_image = jax.vmap(jax.grad(loss), 1, 1)(x[0][None])
        return hessian_times, twice, forward, one_image

    assert max(errors(*both(run, x))) < 1e-5


def test_second_derivatives_go_to_the_first_maximum_as_well():
    x = jnp.zeros((1, 2, 2, 1))

    def loss(x: jax.Array) -> jax.Array:
        return (max_pool(x, (2, 2), (2, 2)) ** 2).sum()

    curvature = jax.hessian(loss)(x).reshape(4, 4)
    np.testing.assert_array_equal(curvature, np.diag([2.0, 0, 0, 0]))


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_pools_equal_lax_in_loops_and_conditionals(pool: Any):
    def loss(x: jax.Array) -> jax.Array:
        def body(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return pool(jnp.sin(x), (3, 3), (1, 1), 1), None

        x = lax.cond(x.sum() > 0, lambda x: pool(x, (2, 2), (2, 2)), lambda x: x[:, ::2, ::2], x)
        return (lax.scan(body, x, length=3)[0] ** 2).sum()

    assert max(errors(*both(jax.grad(loss), normal(0, (2, 8, 8, 5)) + 1))) < 1e-5


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_pools_on_devices_have_the_gradients_of_the_whole(pool: Any, check_vma: bool):
    x = normal(0, (4, 6, 6, 3))

    def loss(x: jax.Array) -> jax.Array:
        return (pool(x, (3, 3), (2, 2), 1) ** 3).sum()

    mesh = Mesh(np.asarray(jax.local_devices()[:2]), ("devices",))
    split = PartitionSpec("devices")
    on_devices = partial(jax.shard_map, mesh=mesh, in_specs=split, out_specs=split, check_vma=check_vma)
    gradient = jax.jit(on_devices(jax.grad(loss)))(x)
    of_pmap = jax.pmap(jax.grad(loss))(x.reshape(2, 2, *x.shape[1:])).reshape(x.shape)
    with use_native_forms(True):
        expected = jax.grad(loss)(x)
    assert max(errors((gradient, of_pmap), (expected, expected))) < 1e-5


def test_max_pool_keeps_nan_and_infinity():
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 4)).astype(np.float32)
    x[0, 1, 1, 0], x[0, 3, 4, 1], x[0, :3, :3, 2], x[0, 5, 5, 3] = np.nan, np.inf, -np.inf, np.nan
    ours, expected = both(lambda x: max_pool(x, (3, 3), (2, 2), 1), jnp.asarray(x))
    np.testing.assert_array_equal(ours, expected)
    assert np.isnan(np.asarray(ours)).sum() == 5  # the first is in four windows


@pytest.mark.parametrize("count_padding", [True, False])
@pytest.mark.parametrize("window", [(3, 3), (2, 2), (7, 7)])  # the last has many entries
def test_avg_pool_and_its_gradient_equal_lax(window: tuple[int, int], count_padding: bool):
    pool = partial(avg_pool, window_shape=window, strides=(2, 1), count_padding=count_padding)
    assert_close(*both_forms(partial(pool, padding=((1, 0), (0, 1))), normal(0, (2, 9, 8, 5))))
    assert_close(*both_forms(partial(pool, ceil_mode=True), normal(0, (2, 9, 8, 5))))


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (0, 6, 6, 3), (2, 6, 6, 0)])
def test_where_no_window_stands_there_is_no_result(pool: Any, shape: tuple[int, ...]):
    y, gradient = both_forms(partial(pool, window_shape=(5, 5), strides=(2, 2)), jnp.ones(shape))[0]
    assert y.size == 0
    chex.assert_trees_all_equal(gradient, (jnp.zeros(shape),))


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_lists_are_as_good_as_tuples(pool: Any):
    x = normal(0, (1, 6, 6, 2))
    of_lists = jax.grad(lambda x: pool(x, [3, 3], [2, 2], [[1, 0], [0, 1]]).sum())(x)
    of_tuples = jax.grad(lambda x: pool(x, (3, 3), (2, 2), ((1, 0), (0, 1))).sum())(x)
    chex.assert_trees_all_equal(of_lists, of_tuples)


def test_pools_of_integers():
    x = jnp.arange(16).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool(x, (2, 2), (2, 2))[0, :, :, 0], [[5, 7], [13, 15]])
    np.testing.assert_array_equal(avg_pool(x, (2, 2), (2, 2))[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_a_pool_that_crops_has_a_gradient():
    gradient = jax.grad(lambda x: max_pool(x, (3, 3), (1, 1), ((-1, 0), (0, -1))).sum())
    x = jnp.arange(36.0).reshape(1, 6, 6, 1)
    expected = np.zeros((6, 6))
    expected[3:, 2:5] = 1
    np.testing.assert_array_equal(gradient(x)[0, :, :, 0], expected)


def test_avg_pool_of_bfloat16_rounds_once():
    x = normal(0, (2, 9, 9, 3)).astype(jnp.bfloat16)
    expected = avg_pool(x.astype(jnp.float32), (3, 3), (2, 2)).astype(jnp.bfloat16)
    assert jnp.array_equal(avg_pool(x, (3, 3), (2, 2)), expected)
