"""BN-Inception: Fig. 5, what differs between paper and release, odd maps, sizes, initialisation."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch.layers import ConvNorm
from flaxarch.models.bn_inception import FIG_5, RELEASED, BNInception, Inception, Widths
from flaxarch.ops import max_pool, use_native_forms


@pytest.fixture(autouse=True)
def native_forms() -> Iterator[None]:
    """One convolution is one operation to trace."""
    with use_native_forms(True):
        yield


def network(name: str) -> BNInception:
    model = flaxarch.create(name)
    assert isinstance(model, BNInception)
    return model


def shapes(model: BNInception, size: int = 224) -> Any:
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)


def map_shapes(name: str, size: int) -> dict[int, tuple[int, ...]]:
    model, images = network(name), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    maps = jax.eval_shape(flaxarch.features(model), *shapes(model), images)
    return {stride: x.shape[1:] for stride, x in maps.items()}


def test_modules_have_the_outputs_of_figure_5():
    model, seen = network("bn_inception_paper"), {}

    def note(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, Inception):
            seen[context.module.name] = out.shape[1:]
        return out

    with nn.intercept_methods(note):
        shapes(model)
    assert {name.removeprefix("inception_"): shape for name, shape in seen.items()} == {
        "3a": (28, 28, 256),
        "3b": (28, 28, 320),
        "3c": (14, 14, 576),
        "4a": (14, 14, 576),
        "4b": (14, 14, 576),
        "4c": (14, 14, 576),
        "4d": (14, 14, 576),
        "4e": (7, 7, 1024),
        "5a": (7, 7, 1024),
        "5b": (7, 7, 1024),
    }


def test_released_maps_are_wider_where_its_pools_are():
    assert map_shapes("bn_inception", 224) == {
        2: (112, 112, 64),
        4: (56, 56, 192),
        8: (28, 28, 320),
        16: (14, 14, 608),
        32: (7, 7, 1024),
    }
    assert [number for number in FIG_5 if FIG_5[number] != RELEASED[number]] == ["4c", "4d"]


def test_released_convolutions_have_biases_and_the_papers_none():
    for name, leaves in (("bn_inception", {"kernel", "bias"}), ("bn_inception_paper", {"kernel"})):
        params, _ = shapes(network(name))
        assert set(params["conv1_7x7_s2"]["conv"]) == set(params["inception_5b"]["1x1"]["conv"]) == leaves


def module(widths: Widths) -> Inception:
    conventions = network("bn_inception").conventions
    conv, norm = conventions.conv(jnp.float32), conventions.norm(False, jnp.float32, None)
    return Inception(widths, partial(ConvNorm, conv=conv, norm=norm))


@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 1), (5, 7)])
def test_halving_module_takes_odd_maps_and_passes_its_pool_on(size: tuple[int, int]):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    block = module(Widths(0, 2, 3, 2, 4, "max", 0))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    found = jax.jit(block.apply)(variables, x)
    half = tuple(math.ceil(n / 2) for n in size)
    assert found.shape == (2, *half, 3 + 4 + 3)
    if all(n % 2 == 0 for n in size):
        np.testing.assert_array_equal(found[..., 7:], max_pool(x, (3, 3), (2, 2), ceil_mode=True))
    # a window each two pixels, whose centre an odd map has where the strided convolution has it
    rows = [slice(max(0, 2 * i - size[0] % 2), 2 * i - size[0] % 2 + 3) for i in range(half[0])]
    columns = [slice(max(0, 2 * j - size[1] % 2), 2 * j - size[1] % 2 + 3) for j in range(half[1])]
    expected = [[np.asarray(x)[:, r, c].max((1, 2)) for c in columns] for r in rows]
    np.testing.assert_array_equal(found[..., 7:], np.moveaxis(np.array(expected), 2, 0))


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_pool_of_a_module_is_what_figure_5_says(pool: str):
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    block = module(Widths(1, 1, 1, 1, 1, pool, 3))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    variables["params"]["pool_proj"]["conv"]["kernel"] = jnp.eye(3)[None, None]
    found = jax.jit(block.apply)(variables, x)[..., 3:] * math.sqrt(1 + 1e-5)  # the norm's epsilon
    corner = np.asarray(x)[0, :2, :2]
    # a mean counts the padding, as Caffe's does
    expected = corner.sum((0, 1)) / 9 if pool == "avg" else corner.max((0, 1))
    np.testing.assert_allclose(found[0, 0, 0], np.maximum(expected, 0), rtol=1e-5, atol=1e-6)


def test_odd_sizes_leave_maps_of_the_same_size_in_all_branches():
    assert map_shapes("bn_inception", 113) == {
        2: (57, 57, 64),
        4: (28, 28, 192),
        8: (14, 14, 320),
        16: (7, 7, 608),
        32: (4, 4, 1024),
    }


def test_images_smaller_than_the_pools_can_halve_are_refused():
    assert map_shapes("bn_inception", 7)[32] == (1, 1, 1024)
    with pytest.raises(ValueError, match="BN-Inception needs images of at least 7x7 pixels"):
        map_shapes("bn_inception", 6)


def test_released_row_takes_bgr_images_of_255():
    row = flaxarch.published("bn_inception")
    assert row.channels == "BGR"
    pixels = (np.array(row.mean) - row.mean) / row.std, (np.ones(3) - row.mean) / row.std
    np.testing.assert_allclose(pixels, [[0, 0, 0], [255 - 104, 255 - 117, 255 - 128]], atol=1e-9)


def test_kernels_start_with_variance_one_over_their_inputs():
    conv = network("bn_inception").conventions.conv(jnp.float32)
    params = conv(256, (5, 5)).init(jax.random.key(0), jnp.ones((1, 5, 5, 32)))["params"]
    assert abs(float(params["kernel"].std()) * math.sqrt(800) - 1) < 0.02
    assert not params["bias"].any()
