"""GoogLeNet: Table 1, the forms of the module and of its unit, auxiliary heads, input, initialisation."""

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
from flaxarch.layers import ConvNorm, ModuleDef
from flaxarch.models.googlenet import (
    TABLE_1,
    TORCH,
    AuxHead,
    ConvReLU,
    GoogLeNet,
    Inception,
    NaiveInception,
    NormConv,
    Widths,
    pool_5x5,
    pool_to_4x4,
)
from flaxarch.ops import use_native_forms
from flaxarch.variant import IMAGENET_MEAN, IMAGENET_STD

WIDTHS = Widths(4, 3, 6, 2, 5, 3)
CONV, NORM = TORCH.conv(jnp.float32), TORCH.norm(False, jnp.float32, None)
NAIVE = partial(NaiveInception, third_kernel=3)


@pytest.fixture(autouse=True)
def native_forms() -> Iterator[None]:
    """One convolution is one operation to trace."""
    with use_native_forms(True):
        yield


def shapes(model: Any, size: int = 224, channels: int = 3) -> Any:
    images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    return jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)


def map_shapes(model: Any, size: int = 224) -> dict[int, tuple[int, ...]]:
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    maps = jax.eval_shape(flaxarch.features(model), *shapes(model), images)
    return {stride: x.shape[1:] for stride, x in maps.items()}


def unit(unit_class: ModuleDef, conv: ModuleDef = CONV) -> ModuleDef:
    return partial(unit_class, conv=conv, norm=NORM)


def random_like(variables: Any) -> Any:
    """Other numbers than those of `init`, none of them negative: variances are among them."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.2, 1, x.shape), jnp.float32), variables)


@pytest.mark.parametrize("name", ["googlenet", "googlenet_paper"])
def test_maps_are_those_of_table_1(name: str):
    assert map_shapes(flaxarch.create(name)) == {
        2: (112, 112, 64),
        4: (56, 56, 192),
        8: (28, 28, 480),
        16: (14, 14, 832),
        32: (7, 7, 1024),
    }


def test_modules_have_the_features_of_table_1():
    numbers = {number: widths for stage in TABLE_1 for number, widths in stage.items()}
    outputs = {n: w.conv1x1 + w.conv3x3 + w.conv5x5 + w.pool_proj for n, w in numbers.items()}
    assert outputs == {
        "3a": 256,
        "3b": 480,
        "4a": 512,
        "4b": 512,
        "4c": 512,
        "4d": 528,
        "4e": 832,
        "5a": 832,
        "5b": 1024,
    }


@pytest.mark.parametrize("kernel", [3, 5])
def test_naive_module_keeps_all_channels_in_its_pool_and_reduces_none(kernel: int):
    x = jnp.ones((1, 6, 5, 7))
    for module, features, params in (
        (Inception, 18, 7 * 4 + (7 * 3 + 9 * 3 * 6) + (7 * 2 + kernel**2 * 2 * 5) + 7 * 3),
        (NaiveInception, 15 + 7, 7 * 4 + 9 * 7 * 6 + kernel**2 * 7 * 5),
    ):
        block = module(WIDTHS, unit(ConvReLU), third_kernel=kernel)
        variables = jax.eval_shape(block.init, jax.random.key(0), x)
        assert jax.eval_shape(block.apply, variables, x).shape == (1, 6, 5, features)
        assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables)) == params


def test_reduced_module_whose_reductions_change_nothing_is_the_naive_one():
    x = jax.random.uniform(jax.random.key(0), (2, 6, 5, 7))
    naive = NaiveInception(WIDTHS, unit(ConvReLU))
    params = random_like(jax.eval_shape(naive.init, jax.random.key(0), x)["params"])
    identity = {"conv": {"kernel": jnp.eye(7)[None, None]}}  # of what is positive, which ReLU leaves alone
    reduced = Inception(WIDTHS._replace(reduce3x3=7, reduce5x5=7, pool_proj=7), unit(ConvReLU))
    more = {"branch2_0": identity, "branch3_0": identity, "branch4_1": identity}
    expected: Any = naive.apply({"params": params}, x)
    found: Any = reduced.apply({"params": params | more}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_two_pre_activation_units_have_a_conv_norm_relu_unit_between_them():
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 4))
    first, second = (unit(NormConv)(features, (3, 3), padding=1) for features in (5, 3))
    variables = [
        random_like(jax.eval_shape(layer.init, jax.random.key(0), given))
        for layer, given in ((first, x), (second, jnp.ones((2, 6, 5, 5))))
    ]
    found = second.apply(variables[1], first.apply(variables[0], x))

    (params1, stats1), (params2, stats2) = ((v["params"], v["batch_stats"]) for v in variables)
    norm1 = NORM().bind({"params": params1["bn"], "batch_stats": stats1["bn"]})
    between = {"params": {"conv": params1["conv"], "bn": params2["bn"]}, "batch_stats": stats2}
    y = unit(ConvNorm)(5, (3, 3), padding=1).apply(between, nn.relu(norm1(x)))
    expected = CONV(3, (3, 3), padding=1).apply({"params": params2["conv"]}, y)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("module", [Inception, NAIVE])
@pytest.mark.parametrize("unit_class", [ConvNorm, ConvReLU, NormConv])
def test_every_unit_makes_every_module(module: ModuleDef, unit_class: ModuleDef):
    model = GoogLeNet(num_classes=10, module=module, unit=unit_class, last_norm=unit_class is NormConv)
    params, batch_stats = shapes(model, 64)
    branch = params["inception4b"]["branch3_1"]
    assert set(branch) == ({"conv"} if unit_class is ConvReLU else {"conv", "bn"})
    assert ("last_norm" in batch_stats) == (unit_class is NormConv)
    norm_features = {ConvNorm: 64, NormConv: 24 if module is Inception else branch["conv"]["kernel"].shape[2]}
    if unit_class is not ConvReLU:
        assert branch["bn"]["scale"].shape == (norm_features[unit_class],)
    assert params["fc"]["kernel"].shape[1] == 10


def test_naive_network_grows_with_every_module():
    # Table 1 without reductions: 192 + 224 = 416, + 416 = 832 in the third stage
    assert map_shapes(GoogLeNet(module=NAIVE), 64)[8] == (8, 8, 192 + 224 + 416)


@pytest.mark.parametrize("pool", [pool_to_4x4, pool_5x5])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (4, 4), (7, 9), (14, 14), (19, 15)])
def test_auxiliary_pools_make_4x4_of_any_map(pool: Any, size: tuple[int, int]):
    x = jnp.full((1, *size, 2), 3.0)
    np.testing.assert_allclose(pool(x), jnp.full((1, 4, 4, 2), 3.0), rtol=1e-6)


def test_papers_auxiliary_pool_is_5x5_with_stride_3():
    x, starts = jax.random.normal(jax.random.key(0), (2, 14, 14, 3)), (0, 3, 6, 9)
    means = [[np.asarray(x)[:, i : i + 5, j : j + 5].mean((1, 2)) for j in starts] for i in starts]
    np.testing.assert_allclose(pool_5x5(x), np.moveaxis(np.array(means), 2, 0), rtol=1e-4, atol=1e-6)


def test_network_without_auxiliary_heads_has_the_parameters_of_the_others_but_theirs():
    (with_heads, _), (without, _) = (shapes(flaxarch.create(n)) for n in ("googlenet", "googlenet_no_aux"))
    assert {**with_heads, "aux1": None, "aux2": None} == {**without, "aux1": None, "aux2": None}


def test_network_without_auxiliary_heads_gives_plain_logits_in_training_and_has_no_exits():
    model = flaxarch.create("googlenet_no_aux")
    _, apply = flaxarch.functional(model)
    variables = shapes(model, 64)
    images, key = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32), jax.random.key(0)
    logits, _ = jax.eval_shape(partial(apply, train=True, key=key), *variables, images)
    assert logits.shape == (2, 1000)
    assert model.aux_heads == ()
    with pytest.raises(ValueError, match="no auxiliary heads to exit by"):
        jax.eval_shape(partial(apply, train=False, exits=True), *variables, images)


def test_training_without_exits_gives_plain_logits():
    model = flaxarch.create("googlenet")
    _, apply = flaxarch.functional(model)
    images, key = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32), jax.random.key(0)
    apply = partial(apply, train=True, exits=False, key=key)
    assert jax.eval_shape(apply, *shapes(model), images)[0].shape == (2, 1000)


def test_exits_come_from_the_first_module_and_the_fourth_of_the_second_stage():
    (params, _) = shapes(flaxarch.create("googlenet_paper"))
    kernels = [params[name]["conv"]["conv"]["kernel"].shape for name in ("aux1", "aux2")]
    assert kernels == [(1, 1, 512, 128), (1, 1, 528, 128)]


def test_transform_input_brings_imagenets_mean_and_deviation_to_half():
    pixels = jax.random.uniform(jax.random.key(0), (2, 40, 40, 3))
    mean, std = (jnp.asarray(x)[None, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    model = GoogLeNet(num_classes=3, aux=False)
    variables = random_like(shapes(model, 40))

    def first_map(model: GoogLeNet, images: jax.Array) -> Any:
        return jax.jit(lambda *args: flaxarch.features(model)(*args)[2])(*variables, images)

    expected = first_map(model, (pixels - 0.5) / 0.5)
    found = first_map(model.clone(transform_input=True), (pixels - mean) / std)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert flaxarch.published("googlenet").mean == flaxarch.published("googlenet").std == (0.5,) * 3
    with pytest.raises(ValueError, match="transform_input is for RGB images, not for 1 channels"):
        shapes(model.clone(transform_input=True), 40, channels=1)


@pytest.mark.parametrize(("name", "smallest"), [("googlenet", 15), ("googlenet_paper", 31)])
def test_images_smaller_than_the_pools_can_halve_are_refused(name: str, smallest: int):
    assert map_shapes(flaxarch.create(name), smallest)[32] == (1, 1, 1024)
    with pytest.raises(ValueError, match=f"GoogLeNet needs images of at least {smallest}x{smallest}"):
        shapes(flaxarch.create(name), smallest - 1)


def test_weights_start_as_torchvisions():
    head = AuxHead(400, pool_to_4x4, unit(ConvNorm), partial(CONV, use_bias=True), TORCH.dense, nn.Dropout)
    head = head.clone(dropout=partial(nn.Dropout, 0.7, deterministic=True))
    params = jax.jit(head.init)(jax.random.key(0), jnp.ones((1, 4, 4, 512)))["params"]
    for layer, fan_in in ((params["conv"]["conv"], 512), (params["fc1"], 2048), (params["fc2"], 1024)):
        assert abs(float(layer["kernel"].std()) / 0.01 - 1) < 0.02
        if "bias" in layer:
            bound = 1 / math.sqrt(fan_in)
            assert 0.9 * bound < float(jnp.abs(layer["bias"]).max()) <= bound


def test_weights_of_the_papers_start_with_variance_one_over_their_inputs():
    row = flaxarch.create("googlenet_paper")
    assert isinstance(row, GoogLeNet)
    params = row.conventions.conv(jnp.float32)(256, (5, 5)).init(jax.random.key(0), jnp.ones((1, 5, 5, 32)))
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    assert abs(float(kernel.std()) * math.sqrt(800) - 1) < 0.02
    assert not bias.any()
