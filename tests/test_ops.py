from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxarch.layers import Conv
from flaxarch.ops import conv_general_dilated, use_native_forms

NHWC = ("NHWC", "HWIO", "NHWC")


def normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def both_forms(function: Callable[..., jax.Array], *args: jax.Array) -> list[Any]:
    """Value and gradients, of a random weighting of the output, in the CPU's form and in lax's own."""
    results = []
    for native in (False, True):

        def weighted(*args: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = function(*args)
            return (y * np.random.default_rng(9).normal(size=y.shape).astype(y.dtype)).sum(), y

        with use_native_forms(native):
            grad = jax.grad(weighted, argnums=tuple(range(len(args))), has_aux=True)
            gradients, y = jax.jit(grad)(*args)
        results.append((y, gradients))
    return results


def assert_close(found: Any, expected: Any) -> None:
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * float(jnp.abs(b).max() + 1))


@pytest.mark.parametrize(
    ("kernel", "groups", "strides", "padding", "dilation"),
    [
        ((1, 1, 12, 8), 1, (1, 1), "VALID", (1, 1)),
        ((1, 1, 12, 8), 1, (2, 2), "SAME", (1, 1)),
        ((1, 1, 12, 8), 1, (2, 3), [(0, 0), (0, 0)], (1, 1)),
        ((1, 1, 12, 8), 1, (1, 1), [(1, 1), (0, 1)], (1, 1)),  # padded: no matrix product
        ((1, 1, 12, 8), 1, (1, 1), "VALID", (2, 2)),
        ((3, 3, 12, 8), 1, (2, 2), [(1, 1), (1, 1)], (1, 1)),
        ((3, 3, 12, 20), 1, (2, 1), [(0, 1), (2, 1)], (1, 2)),  # of many features: Eigen's, by spread rows
        ((5, 5, 12, 20), 1, (1, 2), [(2, 2), (1, 2)], (1, 1)),
        ((3, 3, 3, 8), 4, (1, 1), [(1, 1), (1, 1)], (1, 1)),
        ((3, 3, 1, 24), 12, (2, 2), [(1, 1), (0, 1)], (1, 1)),  # depthwise, two outputs a channel
        ((3, 3, 6, 4), 2, (1, 1), [(2, 2), (2, 2)], (2, 2)),
        ((1, 1, 4, 6), 3, (2, 2), "VALID", (1, 1)),
        ((9, 11, 12, 5), 1, (1, 1), "VALID", (1, 1)),  # as large as the image: a dense layer
        ((9, 11, 12, 5), 1, (1, 1), [(0, 0), (1, 0)], (1, 1)),
        ((9, 11, 12, 5), 1, (2, 2), "SAME", (1, 1)),
    ],
)
def test_convolution_and_its_gradients_equal_lax(kernel, groups, strides, padding, dilation):
    conv = partial(
        conv_general_dilated,
        window_strides=strides,
        padding=padding,
        lhs_dilation=(1, 1),
        rhs_dilation=dilation,
        dimension_numbers=NHWC,
        feature_group_count=groups,
    )
    ours, native = both_forms(conv, normal(0, (2, 9, 11, 12)), normal(1, kernel))
    assert_close(ours, native)


@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "dilation"),
    [
        ((3, 3, 1, 6), (1, 1), [(1, 1), (1, 1)], (1, 1)),
        ((3, 3, 1, 6), (2, 2), [(1, 1), (1, 1)], (1, 1)),
        ((3, 3, 1, 6), (2, 2), "SAME", (1, 1)),
        ((3, 3, 1, 6), (2, 3), "VALID", (1, 1)),
        ((3, 3, 1, 12), (2, 2), [(0, 1), (1, 0)], (1, 1)),
        ((5, 5, 1, 6), (2, 2), [(2, 2), (2, 2)], (1, 1)),
        ((5, 3, 1, 18), (3, 1), "SAME", (1, 2)),
        ((3, 3, 1, 6), (1, 1), "SAME", (2, 3)),
        ((3, 3, 1, 6), (2, 2), "SAME_LOWER", (2, 2)),
        ((7, 7, 1, 6), (1, 1), [(3, 3), (3, 3)], (1, 1)),
        ((1, 1, 1, 12), (2, 2), "VALID", (1, 1)),
        ((3, 3, 1, 6), (1, 1), [(-1, 2), (0, -1)], (1, 1)),  # a negative pad crops
        ((1, 4, 1, 6), (4, 4), [(0, 0), (0, 0)], (1, 1)),  # strides that skip rows
    ],
)
def test_depthwise_convolution_and_its_gradients_equal_lax_in_float64(kernel, strides, padding, dilation):
    with jax.enable_x64(True):
        conv = partial(
            conv_general_dilated,
            window_strides=strides,
            padding=padding,
            rhs_dilation=dilation,
            dimension_numbers=NHWC,
            feature_group_count=6,
        )
        x, w = normal(0, (2, 10, 11, 6)), normal(1, kernel)
        ours, native = both_forms(conv, x, w)
        assert ours[0].dtype == jnp.float64
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(native), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=NHWC, feature_group_count=x.shape[-1]
    )


def test_depthwise_convolution_is_traced_without_any_of_lax():
    with use_native_forms(False):
        jaxpr = str(jax.make_jaxpr(depthwise)(normal(0, (2, 8, 8, 4)), normal(1, (3, 3, 1, 4))))
    assert "conv_general_dilated" not in jaxpr


def test_second_derivatives_of_depthwise_convolution_equal_lax():
    x, kernel, direction = normal(0, (2, 7, 8, 3)), normal(1, (3, 3, 1, 3)), normal(2, (2, 7, 8, 3))

    def slope(kernel: jax.Array) -> jax.Array:  # of a function of x, in a direction
        return (jax.grad(lambda x: jnp.sin(depthwise(x, kernel)).sum())(x) * direction).sum()

    gradients = []
    for native in (False, True):
        with use_native_forms(native):
            gradients.append(jax.jit(jax.grad(slope))(kernel))
    assert_close(*gradients)


@pytest.mark.parametrize("kernel", [(3, 3, 1, 12), (1, 1, 12, 20), (3, 3, 12, 20)])
def test_forward_and_reverse_derivatives_agree(kernel):
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        groups = 12 // kernel[2]
        y = conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=NHWC, feature_group_count=groups)
        return (y**2).sum()

    x, w, along = normal(0, (2, 7, 6, 12)), normal(1, kernel), normal(2, kernel)
    slope = jax.jit(lambda w: jax.jvp(partial(loss, x), (w,), (along,))[1])(w)
    gradient = jax.jit(jax.grad(loss, argnums=1))(x, w)
    np.testing.assert_allclose(slope, jnp.vdot(gradient, along), rtol=1e-4)


def test_gradient_of_a_bias_sums_bfloat16_in_float32():
    conv = Conv(3, (1, 1), dtype=jnp.bfloat16, conv_general_dilated=conv_general_dilated)
    x = normal(0, (4, 64, 64, 2)).astype(jnp.bfloat16)
    variables = conv.init(jax.random.key(1), x)

    def biased(bias: jax.Array) -> jax.Array:
        y: Any = conv.apply({"params": {**variables["params"], "bias": bias}}, x)
        return y

    y, pull = jax.vjp(biased, jnp.ones(3))
    assert y.dtype == jnp.bfloat16
    g = jnp.abs(normal(2, y.shape)).astype(jnp.bfloat16)
    np.testing.assert_allclose(pull(g)[0], np.asarray(g, np.float64).sum((0, 1, 2)), rtol=1e-5)


def test_depthwise_convolution_sums_bfloat16_in_float32():
    x, kernel = normal(0, (4, 33, 33, 6)), normal(1, (5, 5, 1, 6))
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    (y, gradients), _ = both_forms(depthwise, x, kernel)
    _, (exact, exact_gradients) = both_forms(depthwise, x.astype(jnp.float32), kernel.astype(jnp.float32))
    for a, b in zip((y, *gradients), (exact, *exact_gradients), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0, atol=2**-8 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("groups", [2, 32, 48])
def test_groups_are_merged_into_few_dense_convolutions(groups: int):
    # 96 channels: 48 a group, over the limit, stay apart; 3 and 2 a group are merged.
    conv = partial(
        conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=NHWC,
        feature_group_count=groups,
    )
    x, kernel = normal(0, (1, 5, 5, 96)), normal(1, (3, 3, 96 // groups, 96))
    with use_native_forms(False):
        jaxpr = jax.make_jaxpr(conv)(x, kernel)
    convs = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dense_conv"]
    assert "conv_general_dilated" not in str(jaxpr)
    assert len(convs) == {2: 2, 32: 4, 48: 3}[groups]
    assert_close(*both_forms(conv, x, kernel))


def test_other_layouts_are_left_to_lax():
    conv = partial(
        conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=2,
    )
    ours, native = both_forms(conv, normal(0, (2, 4, 5, 6)), normal(1, (6, 2, 3, 3)))
    chex.assert_trees_all_equal(ours, native)


def test_no_image_under_a_kernel_of_its_size_gives_no_result():
    conv = partial(conv_general_dilated, window_strides=(1, 1), padding="VALID", dimension_numbers=NHWC)
    with use_native_forms(False):
        assert conv(jnp.ones((0, 7, 7, 5)), jnp.ones((7, 7, 5, 9))).shape == (0, 1, 1, 9)
