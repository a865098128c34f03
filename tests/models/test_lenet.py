"""LeNet-5: the paper's layers one by one, Table I, the output units, sizes, initialisation."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import flaxarch
from flaxarch.models.lenet import TABLE_I, LeNet5, PartialC3, codes, maximum, mean, scaled_tanh, trained_sum

ROWS = ("lenet5", "lenet5_relu", "lenet5_1998")
LARGER = {"lenet5": 28, "lenet5_relu": 28, "lenet5_1998": 32}


def lenet(name: str) -> LeNet5:
    model = flaxarch.create(name)
    assert isinstance(model, LeNet5)
    return model


def shapes(model: LeNet5, size: int = 32, channels: int = 1) -> Any:
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    return jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)


def random_params(model: LeNet5, size: int = 32) -> Any:
    rng = np.random.default_rng(7)
    params, _ = shapes(model, size)
    return jax.tree.map(lambda x: jnp.asarray(rng.uniform(-0.3, 0.3, x.shape), jnp.float32), params)


def logits_of(model: LeNet5, params: Any, images: jax.Array) -> jax.Array:
    return jax.jit(partial(flaxarch.functional(model).apply, train=False))(params, {}, images)[0]


def test_layers_of_1998_have_the_papers_numbers_of_parameters():
    params, batch_stats = shapes(lenet("lenet5_1998"))
    counts = {name: sum(math.prod(x.shape) for x in jax.tree.leaves(layer)) for name, layer in params.items()}
    assert counts == {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}
    assert batch_stats == {}


@pytest.mark.parametrize(
    ("name", "c1", "c3", "s4"), [("lenet5_1998", 28, 10, 5), ("lenet5", 28, 10, 5), ("lenet5_relu", 24, 8, 4)]
)
def test_maps_have_the_papers_sizes(name: str, c1: int, c3: int, s4: int):
    model, (height, *_) = lenet(name), flaxarch.published(name).input_shape
    images = jax.ShapeDtypeStruct((1, height, height, 1), jnp.float32)
    maps = jax.eval_shape(flaxarch.features(model), *shapes(model, height), images)
    found = {stride: x.shape[1:] for stride, x in maps.items()}
    assert found == {1: (c1, c1, 6), 2: (c3, c3, 16), 4: (s4, s4, 16)}


def test_table_i_breaks_the_symmetry_as_the_paper_says():
    maps = [inputs for group in TABLE_I.values() for inputs in group]
    assert [len(inputs) for inputs in maps] == [3] * 6 + [4] * 9 + [6]
    assert len(set(maps)) == 16
    # every map of S2 is read by ten of C3's: Table I has as many marks in each of its rows
    assert [sum(i in inputs for inputs in maps) for i in range(6)] == [10] * 6


def test_c3_is_a_full_convolution_whose_kernel_is_zero_outside_table_i():
    x = jax.random.normal(jax.random.key(0), (2, 7, 9, 6))
    c3 = PartialC3(lenet("lenet5_1998").conventions.conv(jnp.float32))
    params: Any = c3.init(jax.random.key(1), x)["params"]
    kernel, number = np.zeros((5, 5, 6, 16), np.float32), 0
    for group, maps in TABLE_I.items():
        for k, inputs in enumerate(maps):
            kernel[:, :, inputs, number] = params[group]["kernel"][..., k]
            number += 1
    expected = lax.conv_general_dilated(
        x, jnp.asarray(kernel), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found: Any = c3.apply({"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_squashing_goes_through_one_and_minus_one():
    np.testing.assert_allclose(scaled_tanh(jnp.array([-1.0, 0.0, 1.0, 1e3])), [-1, 0, 1, 1.7159], atol=1e-4)


def test_trained_subsampling_is_a_mean_for_a_quarter_and_no_bias():
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    given = []

    def conv(*args: Any, **kwargs: Any) -> Any:
        given.append(kwargs)
        return lambda total: total / 4

    found = trained_sum(x, conv, jnp.tanh, "s2")
    np.testing.assert_allclose(found, jnp.tanh(mean(x, conv, jnp.tanh, "s2")), rtol=1e-5)
    kernel = given[0]["kernel_init"](jax.random.key(0), (1, 1, 1, 1000))
    assert 0.55 < float(jnp.abs(kernel).max()) <= 0.6  # 2.4 over the four inputs of a unit


def test_subsampling_of_today_takes_the_mean_or_the_maximum_of_four():
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    np.testing.assert_allclose(mean(x, None, jnp.tanh, "")[0, 0, :, 0], [2.5, 4.5])  # pyright: ignore
    np.testing.assert_allclose(maximum(x, None, jnp.tanh, "")[0, 0, :, 0], [5, 7])  # pyright: ignore


def test_codes_are_signs_and_the_first_ones_do_not_depend_on_how_many_there_are():
    ten = codes(10)
    assert set(ten.ravel()) == {-1, 1}
    assert ten.shape == (10, 84)
    np.testing.assert_array_equal(codes(13)[:10], ten)
    distances = ((ten[:, None] - ten[None]) ** 2).sum(-1)
    assert distances[~np.eye(10, dtype=bool)].min() >= 4 * 20  # any two differ in 20 bits at least


def test_logit_of_an_output_unit_is_minus_its_squared_distance():
    model = lenet("lenet5_1998")
    params = random_params(model)
    code = codes(10)[3]
    # F6 gives whatever its bias says, where its kernel is zero: here the code of class 3
    bias = np.arctanh(code / 1.7159) * 1.5
    params["f6"] = {"kernel": jnp.zeros((1, 1, 120, 84)), "bias": jnp.asarray(bias, jnp.float32)}
    logits = logits_of(model, params, jnp.ones((1, 32, 32, 1)))
    np.testing.assert_allclose(logits[0], -((code - codes(10)) ** 2).sum(-1), rtol=1e-5, atol=1e-4)
    assert int(logits.argmax()) == 3


def test_linear_output_adds_its_parameters_and_any_other_is_refused():
    model = lenet("lenet5_1998").clone(output="linear")
    params, _ = shapes(model)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == 60_000 + 850
    with pytest.raises(ValueError, match='output of a LeNet-5 is "rbf" or "linear", not \'softmax\''):
        shapes(model.clone(output="softmax"))


@pytest.mark.parametrize("name", ROWS)
def test_larger_image_gives_the_mean_of_the_windows_logits(name: str):
    model, size = lenet(name).clone(padding=0), LARGER[name] if name != "lenet5" else 32
    params = random_params(model, size)
    images = jax.random.normal(jax.random.key(0), (2, size, size + 4, 1))  # C5 moves by 4 pixels
    windows = [logits_of(model, params, images[:, :, start : start + size]) for start in (0, 4)]
    expected = (windows[0] + windows[1]) / 2
    np.testing.assert_allclose(logits_of(model, params, images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "smallest"), LARGER.items())
def test_images_smaller_than_c5_can_read_are_refused(name: str, smallest: int):
    model = lenet(name)
    shapes(model, smallest)
    with pytest.raises(ValueError, match=f"LeNet-5 needs images of at least {smallest}x{smallest} pixels"):
        shapes(model, smallest - 1)


def test_colour_images_change_the_first_layer_only():
    gray, colour = (shapes(lenet("lenet5"), 28, channels)[0] for channels in (1, 3))
    assert colour["c1"]["kernel"].shape == (5, 5, 3, 6)
    assert {**gray, "c1": None} == {**colour, "c1": None}


def test_pixels_of_the_paper_are_those_of_its_normalisation():
    row = flaxarch.published("lenet5_1998")
    background, ink = ((pixel - row.mean[0]) / row.std[0] for pixel in (0, 1))
    assert abs(background + 0.1) < 1e-12
    assert abs(ink - 1.175) < 1e-12


@pytest.mark.parametrize(("name", "scale"), [("lenet5_1998", 2.4), ("lenet5", 1.0)])
def test_weights_start_uniform(name: str, scale: float):
    model = lenet(name)
    images = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    params, _ = jax.jit(lambda key: flaxarch.functional(model).init(key, images))(jax.random.key(0))
    for layer, fan_in in (("c5", 400), ("f6", 120)):
        bound = scale / (fan_in if name == "lenet5_1998" else math.sqrt(fan_in))
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        assert 0.98 * bound < float(jnp.abs(kernel).max()) <= bound * (1 + 1e-6)
        if name == "lenet5_1998":
            assert not bias.any()
        else:
            assert 0.8 * bound < float(jnp.abs(bias).max()) <= bound * (1 + 1e-6)
