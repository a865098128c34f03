"""AlexNet and ZFNet: the papers' tables, two towers, where norm and dropout stand, initial values."""

import math
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.layers import Network
from flaxarch.models.alexnet import AlexNet, ConvLayer, lrn, pool
from tests.reference import random_variables

SMALL = AlexNet(
    (ConvLayer(4, 3, strides=2, steps=(lrn, pool)), ConvLayer(8, 3, padding=1, groups=2)),
    min_size=7,
    hidden_size=16,
    num_classes=5,
    dropout_rate=0.0,
)


def create(name: str) -> AlexNet:
    model = flaxarch.create(name)
    assert isinstance(model, AlexNet)
    return model


def shapes(model: Network, size: int) -> Any:
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("name", "size", "maps"),
    [
        ("alexnet", 224, {4: (55, 64), 8: (27, 192), 16: (13, 256), 32: (6, 256)}),
        # Krizhevsky et al. 2012, Fig. 2; the paper's 224 is 227
        ("alexnet_2012", 227, {4: (55, 96), 8: (27, 256), 16: (13, 256), 32: (6, 256)}),
        ("alexnet_2012_ungrouped", 227, {4: (55, 96), 8: (27, 256), 16: (13, 256), 32: (6, 256)}),
        # Zeiler & Fergus 2014, Fig. 3
        ("zfnet", 224, {2: (110, 96), 4: (55, 96), 8: (26, 256), 16: (13, 256), 32: (6, 256)}),
    ],
)
def test_maps_have_the_sizes_of_the_papers_figure(name: str, size: int, maps: dict):
    model = create(name)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    found = jax.eval_shape(flaxarch.features(model), *shapes(model, size), images)
    assert {stride: x.shape for stride, x in found.items()} == {
        stride: (1, side, side, features) for stride, (side, features) in maps.items()
    }


def test_grouped_layers_see_the_half_of_their_tower():
    params, _ = shapes(create("alexnet_2012"), 227)
    inputs = [params[f"conv{i}"]["kernel"].shape[2] for i in range(1, 6)]
    assert inputs == [3, 48, 256, 192, 192]  # conv3 sees both towers
    params, _ = shapes(create("alexnet_2012_ungrouped"), 227)
    assert [params[f"conv{i}"]["kernel"].shape[2] for i in range(1, 6)] == [3, 96, 256, 384, 384]


@pytest.mark.parametrize("name", ["alexnet", "alexnet_2012", "zfnet"])
def test_image_smaller_than_the_minimum_is_refused_and_the_minimum_runs(name: str):
    model = create(name)
    smallest = model.min_size
    assert shapes(model, smallest) == shapes(model, 227)
    with pytest.raises(ValueError, match=f"this AlexNet needs images of at least {smallest}x{smallest}"):
        shapes(model, smallest - 1)


def conv(x: jax.Array, layer: Any, strides: tuple[int, int], padding: str) -> jax.Array:
    """A convolution with ReLU, by lax alone."""
    nhwc = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, layer["kernel"], strides, padding, dimension_numbers=nhwc)
    return jax.nn.relu(y + layer["bias"][None, None, None])


@pytest.mark.parametrize("steps", [(lrn, pool), (pool, lrn)], ids=["norm first", "pool first"])
def test_norm_comes_before_the_pool_or_after_it_as_the_steps_say(steps: tuple):
    params, _ = random_variables(SMALL)
    images = 100 * jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    model = SMALL.clone(layers=(SMALL.layers[0]._replace(steps=steps), SMALL.layers[1]))
    found = flaxarch.features(model)(params, {}, images)[4]
    x = conv(images, params["conv1"], (2, 2), "VALID")
    for step in steps:
        x = step(x)
    towers = [jax.tree.map(lambda leaf, i=i: leaf[..., 4 * i : 4 * i + 4], params["conv2"]) for i in range(2)]
    halves = [conv(x[..., 2 * i : 2 * i + 2], tower, (1, 1), "SAME") for i, tower in enumerate(towers)]
    np.testing.assert_allclose(found, jnp.concatenate(halves, axis=-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ahead", [True, False])
def test_dropout_stands_ahead_of_the_hidden_layers_or_after_them(ahead: bool):
    """With everything dropped, the logits are what is left of biases after the last dropout."""
    params, _ = random_variables(SMALL)
    model = SMALL.clone(dropout_rate=1.0, dropout_ahead=ahead)
    apply = partial(flaxarch.functional(model).apply, train=True, key=jax.random.key(0))
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    head = params["fc8"]["kernel"][0, 0]
    hidden = jax.nn.relu(params["fc7"]["bias"]) if ahead else jnp.zeros(16)
    expected = hidden @ head + params["fc8"]["bias"]
    np.testing.assert_allclose(
        apply(params, {}, images)[0], jnp.broadcast_to(expected, (2, 5)), rtol=1e-4, atol=1e-5
    )


def test_evaluation_of_a_map_of_any_size_is_that_of_its_means():
    """The last map is brought to 6x6: that of an image with each pixel four times becomes the image's."""
    model = SMALL.clone(layers=(ConvLayer(4, 1),))
    params, _ = random_variables(model)
    images = jax.random.normal(jax.random.key(0), (1, 6, 6, 3))
    larger = images.repeat(2, axis=1).repeat(2, axis=2)
    apply = partial(flaxarch.functional(model.clone(min_size=6)).apply, params, {}, train=False)
    chex.assert_trees_all_close(apply(larger)[0], apply(images)[0], rtol=1e-4)


def initial(name: str) -> Any:
    """Initial parameters of the row's first two and last convolutions at few features, and of its head."""
    model = create(name)
    layers = [layer._replace(features=64, steps=()) for layer in model.layers]
    model = model.clone(layers=(*layers[:2], layers[4]), min_size=27, hidden_size=256, num_classes=8)
    images = jnp.zeros((1, 27, 27, 3))
    return jax.jit(flaxarch.functional(model).init)(jax.random.key(0), images)[0]


def test_initial_values_of_2012_are_the_papers():
    params = initial("alexnet_2012")
    for name, bias in {"conv1": 0, "conv2": 1, "conv3": 1, "fc6": 1, "fc7": 1, "fc8": 0}.items():
        assert abs(params[name]["kernel"].std() / 0.01 - 1) < 0.05
        assert bool((params[name]["bias"] == bias).all())
    layers = create("alexnet_2012").layers
    assert [layer.bias for layer in layers] == [0, 1, 0, 1, 1]  # Sec. 5


def test_initial_values_of_torchvisions_are_torchs_defaults():
    params = initial("alexnet")
    for name, fan_in in {"conv1": 363, "conv2": 1600, "fc6": 36 * 64, "fc8": 256}.items():
        bound = 1 / math.sqrt(fan_in)
        assert 0.97 * bound < jnp.abs(params[name]["kernel"]).max() <= bound
        assert 0.5 * bound < jnp.abs(params[name]["bias"]).max() <= bound
