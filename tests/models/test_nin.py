"""Network in Network: the maps, what an mlpconv layer is, the head, sizes."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.models.nin import NIN, Layer, MlpConv, NiN, halve_max, halve_mean

TINY = NiN((Layer(3, (8, 6), padding=1), Layer(3, (7, 5), padding=1)), (halve_mean,), (True,), num_classes=4)


def shapes(model: Any, size: int) -> Any:
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)


def map_shapes(name: str, size: int) -> dict[int, tuple[int, ...]]:
    model = flaxarch.create(name)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    maps = jax.eval_shape(flaxarch.features(model), *shapes(model, size), images)
    return {stride: x.shape[1:] for stride, x in maps.items()}


@pytest.fixture(scope="module")
def tiny() -> Any:
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    params, _ = jax.jit(flaxarch.functional(TINY).init)(jax.random.key(1), images)
    return params, images


def test_maps_are_those_of_the_definitions():
    assert map_shapes("nin_cifar10", 32) == {1: (32, 32, 96), 2: (16, 16, 192), 4: (8, 8, 192)}
    assert map_shapes("nin_imagenet", 224) == {
        4: (54, 54, 96),
        8: (27, 27, 256),
        16: (13, 13, 384),
        32: (6, 6, 1024),
    }


def test_layers_have_the_parameters_of_the_definitions():
    params, batch_stats = shapes(flaxarch.create("nin_cifar10"), 32)
    kernels = {
        f"{name}/{layer}": x["kernel"].shape
        for name in ("mlpconv1", "mlpconv2", "mlpconv3")
        for layer, x in params[name].items()
    }
    assert kernels == {
        "mlpconv1/conv": (5, 5, 3, 192),
        "mlpconv1/cccp1": (1, 1, 192, 160),
        "mlpconv1/cccp2": (1, 1, 160, 96),
        "mlpconv2/conv": (5, 5, 96, 192),
        "mlpconv2/cccp1": (1, 1, 192, 192),
        "mlpconv2/cccp2": (1, 1, 192, 192),
        "mlpconv3/conv": (3, 3, 192, 192),
        "mlpconv3/cccp1": (1, 1, 192, 192),
    }
    assert params["classifier"]["kernel"].shape == (1, 1, 192, 10)
    assert batch_stats == {}


def test_mlpconv_slides_a_perceptron_over_the_map():
    x = jax.random.normal(jax.random.key(0), (1, 5, 6, 2))
    block = MlpConv(Layer(3, (4, 3)), NIN.conv(jnp.float32))
    variables: Any = block.init(jax.random.key(1), x)
    found: Any = block.apply(variables, x)
    params = variables["params"]
    patch = np.asarray(x)[0, 1:4, 2:5]
    hidden = np.maximum(np.tensordot(patch, params["conv"]["kernel"], 3) + params["conv"]["bias"], 0)
    expected = np.maximum(hidden @ params["cccp1"]["kernel"][0, 0] + params["cccp1"]["bias"], 0)
    np.testing.assert_allclose(found[0, 1, 2], expected, rtol=1e-4, atol=1e-6)


def test_last_window_of_a_mean_that_the_map_does_not_fill_counts_what_it_has():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    # rows 0 to 2 and 2 to 3, columns likewise
    np.testing.assert_allclose(halve_mean(x)[0, ..., 0], [[5, 6.5], [11, 12.5]])
    np.testing.assert_allclose(halve_max(x)[0, ..., 0], [[10, 11], [14, 15]])


def test_logits_are_the_means_of_one_map_per_class_and_never_negative(tiny: Any):
    params, images = tiny
    logits, _ = flaxarch.functional(TINY).apply(params, {}, images, train=False)
    assert logits.shape == (3, 4)
    assert bool((logits >= 0).all())
    features = flaxarch.features(TINY)(params, {}, images)[2]
    head = jax.tree.map(np.asarray, params["classifier"])
    maps = np.maximum(np.asarray(features) @ head["kernel"][0, 0] + head["bias"], 0)
    np.testing.assert_allclose(logits, maps.mean((1, 2)), rtol=1e-4, atol=1e-7)


def test_dropout_works_in_training_only_and_follows_its_rate(tiny: Any):
    params, images = tiny
    apply = partial(flaxarch.functional(TINY).apply, params, {}, images)
    expected, _ = apply(train=False)
    dropped, _ = apply(train=True, key=jax.random.key(3))
    assert not np.allclose(dropped, expected)
    kept, _ = flaxarch.functional(TINY.clone(dropout_rate=0.0)).apply(params, {}, images, train=True)
    np.testing.assert_allclose(kept, expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "smallest"), [("nin_cifar10", 4), ("nin_imagenet", 39)])
def test_images_smaller_than_the_pools_can_halve_are_refused(name: str, smallest: int):
    maps = map_shapes(name, smallest)
    assert maps[max(maps)][:2] == (1, 1)
    with pytest.raises(ValueError, match=f"NiN needs images of at least {smallest}x{smallest} pixels"):
        shapes(flaxarch.create(name), smallest - 1)


def test_kernels_start_normal_and_biases_at_zero():
    x = jnp.ones((1, 5, 5, 32))
    params = NIN.conv(jnp.float32)(128, (5, 5)).init(jax.random.key(0), x)["params"]
    assert abs(float(params["kernel"].std()) / 0.05 - 1) < 0.02
    assert not params["bias"].any()
