"""MobileNets: stages and blocks against the papers' tables, gates, padding, names, how layers start."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch.convert import mobilenet as rules
from flaxarch.convert.rules import slots
from flaxarch.layers import TORCH, Network
from flaxarch.models.mobilenet import DepthwiseSeparable
from flaxarch.models.mobilenet_v2 import (
    Block,
    InvertedResidual,
    InvertedResiduals,
    MobileNetV2,
    make_divisible,
)
from flaxarch.ops import use_native_forms
from tests.reference import random_variables

# Seven blocks, of which none, and three more, which have shortcuts.
SMALL = MobileNetV2(0.35, stage_sizes=(1, 2, 2, 1, 2, 1, 1), num_classes=5)


def shapes(model: Network) -> Any:
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    with use_native_forms(True):
        return jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)


def blocks(name: str) -> tuple[Block, ...]:
    model = flaxarch.create(name)
    assert isinstance(model, InvertedResiduals)
    return model.blocks()


def modules(model: Network) -> tuple[Any, Any]:
    """Convolution and norm, as the network gives them to its blocks."""
    return TORCH.conv(model.dtype), TORCH.norm(False, model.dtype, None)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("mobilenet_100", (64, 128, 256, 512, 1024)),  # Howard et al. 2017, Table 1
        ("mobilenet_025_keras", (16, 32, 64, 128, 256)),
        ("mobilenet_v2", (16, 24, 32, 96, 320)),  # Sandler et al. 2018, Table 2
        ("mobilenet_v3_large", (16, 24, 40, 112, 160)),  # Howard et al. 2019, Tables 1 and 2
        ("mobilenet_v3_small", (16, 16, 24, 48, 96)),
    ],
)
def test_stages_are_those_of_the_tables(name: str, widths: tuple[int, ...]):
    model = flaxarch.create(name)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    with use_native_forms(True):
        maps = jax.eval_shape(flaxarch.features(model), *shapes(model), images)
    sizes = (112, 56, 28, 14, 7)
    expected = {224 // size: (1, size, size, width) for size, width in zip(sizes, widths, strict=True)}
    assert {stride: x.shape for stride, x in maps.items()} == expected


def test_blocks_expand_and_squeeze_as_table_1_of_the_third_paper_says():
    expanded = (16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960)
    assert tuple(block.expanded for block in blocks("mobilenet_v3_large")) == expanded
    squeezed = [i for i, block in enumerate(blocks("mobilenet_v3_large")) if block.squeeze_excite]
    assert squeezed == [3, 4, 5, 10, 11, 12, 13, 14]
    largest = [i for i, block in enumerate(blocks("mobilenet_v3_large")) if block.kernel_size == 5]
    assert largest == [3, 4, 5, 12, 13, 14]
    params, _ = shapes(flaxarch.create("mobilenet_v3_large"))
    assert params["block4"]["squeeze_excite"]["fc1"]["kernel"].shape == (1, 1, 72, 24)


def test_minimalistic_blocks_have_the_same_widths_and_nothing_slow():
    full, minimal = blocks("mobilenet_v3_small"), blocks("mobilenet_v3_small_minimalistic_keras")
    assert [block.expanded for block in full] == [block.expanded for block in minimal]
    for block in minimal:
        assert (block.kernel_size, block.squeeze_excite, block.act) == (3, False, nn.relu)


@pytest.mark.parametrize(
    ("features", "rounded"), [(4, 8), (8.4, 8), (11.2, 16), (12, 16), (18, 24), (33.6, 32), (1792.0, 1792)]
)
def test_widths_are_rounded_to_eights_and_by_no_more_than_a_tenth_down(features: float, rounded: int):
    assert make_divisible(features) == rounded
    assert rounded >= 0.9 * features


@pytest.mark.parametrize(
    ("name", "num_shortcuts"),
    [("mobilenet_v2", 10), ("mobilenet_v3_large", 10), ("mobilenet_v3_small", 6), ("mobilenet_v2_120d", 19)],
)
def test_shortcuts_stand_where_the_shape_stays(name: str, num_shortcuts: int):
    assert sum(block.has_shortcut for block in blocks(name)) == num_shortcuts
    for before, block in zip(blocks(name), blocks(name)[1:], strict=False):
        assert block.channels == before.features


def test_block_is_its_formula():
    conv, norm = modules(SMALL)
    module = InvertedResidual(Block(8, 24, 8, 1), conv, norm)
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 8))
    variables = jax.jit(module.init)(jax.random.key(1), x)
    params: Any = jax.tree.map(np.asarray, variables["params"])
    expand, depthwise, project = (
        params[unit]["conv"]["kernel"] / math.sqrt(1 + 1e-5) for unit in ("expand", "depthwise", "project")
    )
    y = np.clip(np.asarray(x) @ expand[0, 0], 0, 6)
    y = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    assert depthwise.shape == (3, 3, 1, 24)
    y = sum(y[:, i : i + 5, j : j + 6] * depthwise[i, j, 0] for i in range(3) for j in range(3))
    y = np.clip(y, 0, 6) @ project[0, 0]
    apply: Any = jax.jit(module.apply)
    np.testing.assert_allclose(apply(variables, x), x + y, atol=1e-5)
    np.testing.assert_allclose(apply(variables, x, jnp.float32(0.25)), x + 0.25 * y, atol=1e-5)


def test_gates_of_one_change_nothing_and_a_zero_does():
    params, batch_stats = random_variables(SMALL)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    _, apply = flaxarch.functional(SMALL)
    gated = jax.jit(lambda gates: apply(params, batch_stats, images, train=False, gates=gates)[0])
    plain = jax.jit(partial(apply, train=False))(params, batch_stats, images)[0]
    num_blocks = sum(block.has_shortcut for block in SMALL.blocks())
    assert num_blocks == 3
    np.testing.assert_allclose(gated(jnp.ones(num_blocks)), plain, rtol=1e-5, atol=1e-6)
    for i in range(num_blocks):
        assert float(jnp.abs(gated(jnp.ones(num_blocks).at[i].set(0)) - plain).max()) > 1e-3


def test_gates_are_those_of_the_blocks_with_a_shortcut():
    _, apply = flaxarch.functional(SMALL)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    with pytest.raises(ValueError, match="this network of 3 residual blocks"), use_native_forms(True):
        jax.eval_shape(partial(apply, train=False, gates=jnp.ones(10)), *shapes(SMALL), images)


@pytest.mark.parametrize("size", [8, 9])
def test_kerass_first_version_pads_strided_convolutions_at_the_end_whatever_the_size(size: int):
    conv, norm = modules(SMALL)
    block = partial(DepthwiseSeparable, 6, conv, norm, nn.relu6, strides=2)
    x = jax.random.normal(jax.random.key(0), (1, size, size, 4))
    variables = jax.jit(block().init)(jax.random.key(1), x)
    paddings = (((0, 1), (0, 1)), "SAME", 1)
    found, same, symmetric = (
        np.asarray(jax.jit(block(padding=padding).apply)(variables, x)) for padding in paddings
    )
    assert found.shape[1] == size // 2
    if size == 8:
        np.testing.assert_allclose(found, same, atol=1e-6)
        assert np.abs(found - symmetric).max() > 1e-3
    else:
        assert same.shape[1] == size // 2 + 1
        np.testing.assert_allclose(same, symmetric, atol=1e-6)


def test_layers_start_as_torchvisions():
    # normal, std sqrt(2 / fan_out), where the fan of a depthwise convolution counts all its features
    conv, norm = modules(SMALL)
    module = InvertedResidual(Block(64, 384, 64, 1, squeeze_excite=True), conv, norm)
    params: Any = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 1, 1, 64)))["params"]
    for unit, fan_out in (("expand", 384), ("depthwise", 9 * 384), ("project", 64)):
        kernel = np.asarray(params[unit]["conv"]["kernel"])
        np.testing.assert_allclose(kernel.std(), math.sqrt(2 / fan_out), rtol=0.05)
        assert "bias" not in params[unit]["conv"]
    assert not np.asarray(params["squeeze_excite"]["fc1"]["bias"]).any()
    for name in ("mobilenet_v2", "mobilenet_v3_large"):
        model: Any = flaxarch.create(name)
        dense = model.conventions.dense(1000, 256, name="classifier")
        params = jax.jit(dense.init)(jax.random.key(0), jnp.zeros((1, 256)))["params"]
        np.testing.assert_allclose(np.asarray(params["kernel"]).std(), 0.01, rtol=0.02)
        assert not np.asarray(params["bias"]).any()


@pytest.mark.parametrize(
    ("name", "table", "names"),
    [
        (
            "mobilenet_025",
            rules.RETINAFACE,
            {
                "stage1.0.0.weight",
                "stage1.1.3.weight",
                "stage2.0.1.running_var",
                "stage3.1.4.bias",
                "fc.bias",
            },
        ),
        (
            "mobilenet_125",
            rules.TIMM,
            {"conv_stem.weight", "blocks.4.1.conv_pw.weight", "blocks.3.5.bn2.bias"},
        ),
        (
            "mobilenet_v2",
            rules.torchvision_v2,
            {"features.1.conv.1.weight", "features.2.conv.3.bias", "features.17.conv.1.0.weight"},
        ),
        (
            "mobilenet_v2_110d",
            rules.timm_v2,
            {"blocks.0.0.conv_pw.weight", "blocks.1.2.conv_pwl.weight", "blocks.5.3.bn3.bias", "bn2.bias"},
        ),
        (
            "mobilenet_v2_130_keras",
            rules.KERAS_V2,
            {
                "bn_Conv1/gamma",
                "expanded_conv_depthwise/kernel",
                "block_16_project_BN/beta",
                "predictions/bias",
            },
        ),
        (
            "mobilenet_v3_large",
            rules.torchvision_v3,
            {"features.1.block.1.0.weight", "features.15.block.2.fc2.bias", "features.16.1.bias"},
        ),
        (
            "mobilenet_v3_small_050",
            rules.timm_v3,
            {"blocks.0.0.se.conv_reduce.bias", "blocks.3.1.bn3.weight", "blocks.5.0.conv.weight"},
        ),
        (
            "mobilenet_v3_large_keras",
            rules.KERAS_V3,
            {
                "expanded_conv_14_squeeze_excite_conv_1/bias",
                "conv_1_bn/gamma",
                "conv_2/bias",
                "logits/kernel",
            },
        ),
    ],
)
def test_sources_have_one_name_for_each_tensor(name: str, table: Any, names: set[str]):
    model = flaxarch.create(name)
    params, batch_stats = shapes(model)
    table = table(model) if callable(table) else table
    found = [slot.name for slot in slots({"params": params, "batch_stats": batch_stats}, table)]
    assert len(found) == len(set(found))
    assert names <= set(found)


def test_kerass_depthwise_kernels_and_convolutional_heads_have_their_shapes():
    model = flaxarch.create("mobilenet_v3_small_keras")
    params, batch_stats = shapes(model)
    variables = {"params": params, "batch_stats": batch_stats}
    found = {slot.name: slot.source_shape for slot in slots(variables, rules.KERAS_V3)}
    assert found["expanded_conv_3_depthwise/kernel"] == (5, 5, 96, 1)
    assert found["conv_2/kernel"] == (1, 1, 576, 1024)
    assert found["logits/kernel"] == (1, 1, 1024, 1000)
