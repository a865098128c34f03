"""Xception: shapes of Fig. 5, gates, pads, dropout, initialisers."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.convert import keras
from flaxarch.convert.rules import slots
from flaxarch.models.xception import SeparableConv, Xception
from tests.golden import fill
from tests.reference import random_variables

SMALL = Xception(entry_widths=(4, 6), num_middle=2, exit_widths=(8, 10, 12), num_classes=3)
NUM_BLOCKS = 5


def pyramid_shapes(name: str, size: int) -> dict[int, tuple[int, ...]]:
    model = flaxarch.create(name)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    maps = jax.eval_shape(flaxarch.features(model), *variables, images)
    return {stride: x.shape[1:] for stride, x in maps.items()}


@pytest.mark.parametrize("name", ["xception", "xception_keras"])
def test_maps_have_the_shapes_of_figure_5(name: str):
    assert pyramid_shapes(name, 299) == {
        2: (147, 147, 64),
        4: (74, 74, 128),
        8: (37, 37, 256),
        16: (19, 19, 728),
        32: (10, 10, 2048),
    }


def test_smallest_image_leaves_one_pixel_and_a_smaller_one_is_refused():
    assert pyramid_shapes("xception", 7)[2] == (1, 1, 64)
    with pytest.raises(ValueError, match="an Xception needs images of at least 7x7 pixels, not 6x6"):
        pyramid_shapes("xception", 6)


def test_separable_convolution_is_a_convolution_with_a_kernel_of_rank_one_for_each_pair_of_channels():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    conv = SMALL.conventions.conv(jnp.float32)
    module = SeparableConv(4, conv)
    shapes = jax.eval_shape(module.init, jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(fill.uniform(str(leaf.shape), leaf.shape, -1, 1)), shapes)
    depthwise, pointwise = params["depthwise"]["kernel"], params["pointwise"]["kernel"]
    assert (depthwise.shape, pointwise.shape) == ((3, 3, 1, 3), (1, 1, 3, 4))
    whole = jnp.einsum("hwi,io->hwio", depthwise[:, :, 0], pointwise[0, 0])
    expected = jax.lax.conv_general_dilated(
        x, whole, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = np.asarray(module.apply({"params": params}, x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_gates_of_zero_leave_the_shortcuts_alone():
    """Blocks of the middle flow with a gate of zero are as if they were not there."""
    params, batch_stats = random_variables(SMALL)
    images = jax.random.normal(jax.random.key(0), (2, 25, 25, 3))
    apply = jax.jit(partial(flaxarch.functional(SMALL).apply, train=False))
    lesioned, _ = apply(params, batch_stats, images, gates=jnp.array([1.0, 1, 0, 0, 1]))
    short = SMALL.clone(num_middle=0)
    trees = []
    for tree in (params, batch_stats):
        kept = {key: x for key, x in tree.items() if key not in ("block3", "block4", "block5")}
        trees.append(kept | {"block3": tree["block5"]})
    expected, _ = jax.jit(partial(flaxarch.functional(short).apply, train=False))(*trees, images)
    np.testing.assert_allclose(lesioned, expected, rtol=1e-4, atol=1e-5)
    ones, plain = (apply(params, batch_stats, images, gates=g)[0] for g in (jnp.ones(NUM_BLOCKS), None))
    np.testing.assert_allclose(ones, plain, rtol=1e-5)


def test_number_of_gates_is_the_number_of_blocks():
    model = flaxarch.create("xception")
    images = jnp.zeros((1, 32, 32, 3))
    with pytest.raises(ValueError, match="12 residual blocks"):
        jax.eval_shape(partial(model.init, train=False, gates=jnp.ones(11)), jax.random.key(0), images)


def test_the_two_forms_differ_in_pads_and_epsilon_only_and_pads_count_at_even_sizes():
    small = Xception(entry_widths=(4,), num_middle=0, exit_widths=(4, 4, 4))
    params, batch_stats = random_variables(small)
    images = jax.random.normal(jax.random.key(0), (1, 25, 25, 3))  # 10x10 after the stem

    @jax.jit
    def both(images: jax.Array) -> list[Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        models = small, small.clone(pool_padding="SAME")
        return [model.apply(variables, images, train=False) for model in models]

    torch, keras_logits = both(images)
    assert not np.allclose(torch, keras_logits, rtol=1e-3)
    keras_form = flaxarch.create("xception_keras")
    assert (keras_form.conventions.epsilon, keras_form.conventions.momentum) == (1e-3, 0.99)


def test_keras_names_are_all_different_and_depthwise_kernels_have_their_channels_third():
    model = flaxarch.create("xception_keras")
    images = jax.ShapeDtypeStruct((1, 71, 71, 3), jnp.float32)
    params, batch_stats = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    found = {
        slot.name: slot for slot in slots({"params": params, "batch_stats": batch_stats}, keras.XCEPTION)
    }
    assert len(found) == len(jax.tree.leaves((params, batch_stats))) == 236
    depthwise = found["block2_sepconv1/depthwise_kernel"]
    assert (depthwise.shape, depthwise.source_shape) == ((3, 3, 1, 64), (3, 3, 64, 1))
    kernel = np.arange(9 * 64.0).reshape(3, 3, 64, 1)
    np.testing.assert_array_equal(depthwise.to_source(depthwise.from_source(kernel)), kernel)
    assert depthwise.from_source(kernel)[1, 2, 0, 5] == kernel[1, 2, 5, 0]


def test_convolutions_start_as_the_libraries_do():
    for name, variance in (("xception", 2 / (9 * 728)), ("xception_keras", 2 / (9 + 9 * 728))):
        init = flaxarch.create(name).conventions.kernel_init
        kernel = np.asarray(init(jax.random.key(0), (3, 3, 1, 728), jnp.float32))  # depthwise
        assert kernel.std() == pytest.approx(math.sqrt(variance), rel=0.03)
