"""Inception v3: its table, the auxiliary head, what the input is, initialisation, Keras's names."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch.convert import keras
from flaxarch.convert.rules import slots
from flaxarch.layers import ConvNorm
from flaxarch.models.inception_v3 import InceptionA, InceptionV3, to_half
from flaxarch.ops import avg_pool, use_native_forms
from flaxarch.variant import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(autouse=True)
def native_forms() -> Iterator[None]:
    """One convolution is one operation to trace."""
    with use_native_forms(True):
        yield


def images(size: int, channels: int = 3) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)


def variables(model: InceptionV3, size: int = 75) -> Any:
    return jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images(size))


def outputs(model: InceptionV3, size: int, **kwargs: Any) -> Any:
    _, apply = flaxarch.functional(model)
    key = jax.random.key(0)
    return jax.eval_shape(partial(apply, **kwargs), *variables(model), images(size), key=key)[0]


def test_grids_are_those_of_table_1():
    model = InceptionV3()
    maps = jax.eval_shape(flaxarch.features(model), *variables(model), images(299))
    assert {stride: x.shape[1:] for stride, x in maps.items()} == {
        2: (147, 147, 64),
        4: (71, 71, 192),
        8: (35, 35, 288),
        16: (17, 17, 768),
        32: (8, 8, 2048),
    }


def test_grid_reductions_double_the_features_as_the_grid_halves():
    model, seen = InceptionV3(), {}

    def note(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.module.path and context.module.path[-1].startswith("Mixed"):
            seen[context.module.path[-1]] = out.shape[1:]
        return out

    with nn.intercept_methods(note):
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images(299))
    assert seen["Mixed_5b"] == (35, 35, 256)
    assert seen["Mixed_6a"] == (17, 17, 768)
    assert seen["Mixed_7a"] == (8, 8, 1280)
    assert list(seen) == [
        f"Mixed_{x}" for x in ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
    ]


def test_small_images_make_the_parameters_of_the_auxiliary_head_too():
    shapes = [jax.tree.map(lambda x: x.shape, variables(InceptionV3(), size)) for size in (75, 299)]
    assert shapes[0] == shapes[1]
    assert "AuxLogits" in shapes[0][0]


def test_exits_need_the_map_of_299_pixels():
    model = InceptionV3()
    logits, aux_logits = outputs(model, 299, train=True)
    assert [x.shape for x in (logits, *aux_logits)] == [(2, 1000)] * 2
    assert outputs(model, 298, train=True, exits=False).shape == (2, 1000)
    with pytest.raises(
        ValueError, match=r"auxiliary head of an Inception v3 needs images of at least 299x299"
    ):
        outputs(model, 298, train=True)


def test_network_without_auxiliary_head_has_no_exits():
    model = InceptionV3(aux=False)
    assert model.aux_heads == ()
    assert outputs(model, 75, train=True).shape == (2, 1000)
    with pytest.raises(ValueError, match="has no exits: it was made without auxiliary head"):
        outputs(model, 299, train=False, exits=True)


def test_transform_input_maps_imagenet_s_mean_and_std_to_a_half():
    pixels = np.random.default_rng(0).uniform(size=(2, 4, 4, 3))
    normalised = (pixels - np.array(IMAGENET_MEAN)[None, None, None]) / np.array(IMAGENET_STD)[
        None, None, None
    ]
    found = to_half(jnp.asarray(normalised, jnp.float32))
    np.testing.assert_allclose(found, (pixels - 0.5) / 0.5, atol=1e-6)


def test_transform_input_is_for_three_channels():
    model = InceptionV3(transform_input=True)
    with pytest.raises(ValueError, match="transform_input is for RGB images, not for 4 channels"):
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images(75, channels=4))


@pytest.mark.parametrize("count_padding", [True, False])
def test_padding_of_average_pools_counts_in_torch_and_not_in_keras(count_padding: bool):
    """A pool branch of one 1x1 convolution, whose weights are one, sees the sum of the window's means."""
    model = flaxarch.create("inception_v3" if count_padding else "inception_v3_keras")
    assert isinstance(model, InceptionV3)
    pool = partial(
        avg_pool, window_shape=(3, 3), strides=(1, 1), padding=1, count_padding=model.count_padding
    )
    conv = partial(model.conventions.conv(jnp.float32), kernel_init=nn.initializers.ones)
    unit = partial(ConvNorm, conv=conv, norm=model.conventions.norm(False, jnp.float32, None))
    block = InceptionA(1, unit, pool)
    out, _ = jax.jit(block.init_with_output)(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
    pooled = np.asarray(out[0, :, :, -1]) * np.sqrt(1 + 1e-3)
    corner, edge = (4 / 9, 6 / 9) if count_padding else (1, 1)
    np.testing.assert_allclose(pooled[0], [corner, edge, edge, corner], rtol=1e-6)
    np.testing.assert_allclose(pooled[1], [edge, 1, 1, edge], rtol=1e-6)


def test_layers_start_as_the_sources():
    """Normal with std 0.1 in torchvision, 0.001 in the auxiliary head's dense layer; Glorot in Keras."""

    def leaves(name: str):
        model = flaxarch.create(name)

        def init(key):
            params, _ = flaxarch.functional(model).init(key, images(75))
            kept = {key: params[key] for key in ("AuxLogits", "fc") if key in params}
            return kept | {"conv": params["Mixed_7c"]["branch1x1"]["conv"]["kernel"]}

        return jax.jit(init)(jax.random.key(0))

    torch = leaves("inception_v3")
    aux = torch["AuxLogits"]
    np.testing.assert_allclose(torch["conv"].std(), 0.1, rtol=0.01)
    np.testing.assert_allclose(aux["conv1"]["conv"]["kernel"].std(), 0.1, rtol=0.01)
    np.testing.assert_allclose(torch["fc"]["kernel"].std(), 0.1, rtol=0.01)
    np.testing.assert_allclose(aux["fc"]["kernel"].std(), 0.001, rtol=0.01)
    for dense in (torch["fc"], aux["fc"]):
        bound = dense["kernel"].shape[0] ** -0.5
        assert 0.98 * bound < jnp.abs(dense["bias"]).max() <= bound
    keras_leaves = leaves("inception_v3_keras")
    assert not keras_leaves["fc"]["bias"].any()
    np.testing.assert_allclose(keras_leaves["fc"]["kernel"].std(), np.sqrt(2 / (2048 + 1000)), rtol=0.01)
    np.testing.assert_allclose(keras_leaves["conv"].std(), np.sqrt(2 / (2048 + 320)), rtol=0.01)


def test_keras_numbers_its_94_convolutions_and_norms():
    params, batch_stats = variables(InceptionV3(aux=False))
    names = [slot.name for slot in slots({"params": params, "batch_stats": batch_stats}, keras.INCEPTION_V3)]
    for kind, tensor in ("conv2d", "kernel"), ("batch_normalization", "moving_mean"):
        expected = {f"{kind}/{tensor}", *(f"{kind}_{i}/{tensor}" for i in range(1, 94))}
        assert {name for name in names if name.startswith(kind) and name.endswith(tensor)} == expected
