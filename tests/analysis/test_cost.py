"""Costs of networks: the published ones, and a small one's by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import flaxarch
from flaxarch import ops
from flaxarch.analysis import Cost, LayerCost
from flaxarch.layers import Network


def row_cost(name: str) -> Cost:
    return flaxarch.cost(flaxarch.create(name), flaxarch.published(name).input_shape)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50_keras", "resnext50_32x4d", "plain34", "resnet20_b", "resnet110_sd", "wrn_16_4"],
)
def test_totals_equal_the_published_numbers(name: str):
    row, cost = flaxarch.published(name), row_cost(name)
    assert (cost.macs, cost.num_params, cost.num_batch_stats) == (
        row.macs,
        row.num_params,
        row.num_batch_stats,
    )


class Tiny(Network):
    """One layer of each kind; the second half of `twice` has the parameters of the first."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(8, (5, 3), (2, 1), padding=((2, 2), (1, 1)), dtype=self.dtype, name="conv")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, dtype=self.dtype, name="norm")(x))
        twice = nn.Conv(8, (3, 3), feature_group_count=4, use_bias=False, dtype=self.dtype, name="twice")
        x = ops.max_pool(twice(twice(x)), (2, 2), (2, 2))
        x = nn.GroupNorm(2, dtype=self.dtype, name="group_norm")(x)
        if train or self.is_initializing():
            nn.Dense(5, name="aux")(x.mean((1, 2)))
        return nn.Dense(self.num_classes, name="head")(ops.global_avg_pool(x))


def test_layers_of_a_small_network_are_those_worked_out_by_hand():
    cost = flaxarch.cost(Tiny(num_classes=10), (16, 12, 3))
    assert cost.layers == (
        LayerCost("conv", "conv 5x3 / 2x1", (8, 12, 8), 45 * 8 + 8, 0, 96 * 45 * 8, 96 * 32, (5, 3), (2, 1)),
        LayerCost("norm", "batch norm", (8, 12, 8), 16, 16, 0, 96 * 32, (5, 3), (2, 1)),
        LayerCost("twice", "conv 3x3, 4 groups", (8, 12, 8), 144, 0, 96 * 144, 96 * 32, (9, 5), (2, 1)),
        LayerCost("twice", "conv 3x3, 4 groups", (8, 12, 8), 0, 0, 96 * 144, 96 * 32, (13, 7), (2, 1)),
        LayerCost("", "max pool 2x2 / 2", (4, 6, 8), 0, 0, 0, 24 * 32, (15, 8), (4, 2)),
        LayerCost("group_norm", "group norm", (4, 6, 8), 16, 0, 0, 24 * 32, (16, 12), (4, 2)),
        LayerCost("", "global avg pool", (8,), 0, 0, 0, 32, (16, 12), (16, 12)),
        LayerCost("head", "dense", (10,), 90, 0, 80, 40, (16, 12), (16, 12)),
        LayerCost("aux", "dense, training only", (), 45, 0, 0, 0, (0, 0), (0, 0)),
    )


def test_activations_are_as_wide_as_the_models_dtype():
    single, half = (flaxarch.cost(Tiny(dtype=dtype), (16, 12, 3)) for dtype in (jnp.float32, jnp.bfloat16))
    sizes = [
        (a.activation_bytes, b.activation_bytes) for a, b in zip(single.layers, half.layers, strict=True)
    ]
    assert all(wide == 2 * narrow for wide, narrow in sizes[:-2])
    assert sizes[-2] == (4000, 4000)  # logits


def test_parts_add_up_to_the_whole():
    cost = row_cost("resnet20_b")
    assert list(cost.by_module()) == [
        "conv1",
        "bn1",
        *(f"layer{i}_{j}" for i in (1, 2, 3) for j in range(3)),
        "",
        "fc",
    ]
    for depth in (1, 2):
        parts = cost.by_module(depth).values()
        assert sum(part.macs for part in parts) == cost.macs
        assert sum(part.num_params for part in parts) == cost.num_params
    block = cost.of("layer2_0")  # 16 to 32 features at 16x16
    assert block.macs == 256 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32)
    assert block.num_params == 9 * 16 * 32 + 9 * 32 * 32 + 16 * 32 + 3 * 64
    assert block == cost.by_module()["layer2_0"]
    assert block.of("layer2_0/conv2").macs == 256 * 9 * 32 * 32


def test_unknown_module_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"no layer in a module 'layer2_9': did you mean .*layer2_0"):
        row_cost("resnet20").of("layer2_9")


def test_layers_stand_in_order_of_execution():
    paths = [layer.path for layer in row_cost("resnet18").layers]
    assert paths[:5] == ["conv1", "bn1", "", "layer1_0/conv1", "layer1_0/bn1"]
    assert paths[-2:] == ["", "fc"]
    assert [path for path in paths if path.endswith("conv1")][1:] == [
        f"layer{i}_{j}/conv1" for i in (1, 2, 3, 4) for j in (0, 1)
    ]


class Encoder(nn.Module):
    """A module with a method of another name, and a pool inside."""

    def setup(self) -> None:
        self.conv = nn.Conv(4, (3, 3))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)

    def encode(self, x: jax.Array) -> jax.Array:
        @jax.custom_vjp
        def double(x: jax.Array) -> jax.Array:
            return 2 * self.conv(x)

        double.defvjp(lambda x: (double(x), None), lambda _, g: (g,))
        with jax.named_scope("down"):
            return ops.max_pool(double(x), (2, 2), (2, 2))


class Nested(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        x = Encoder(name="first").encode(images)
        return ops.adaptive_avg_pool(ops.max_pool(x, (3, 3), (1, 1)), (2, 2))


def test_layers_inside_methods_transformations_and_scopes_have_their_modules_path():
    cost = flaxarch.cost(Nested(), (14, 14, 3))
    assert [(layer.path, layer.kind, layer.output_shape) for layer in cost.layers] == [
        ("first/conv", "conv 3x3", (14, 14, 4)),
        ("first", "max pool 2x2 / 2", (7, 7, 4)),
        ("", "max pool 3x3", (5, 5, 4)),
        ("", "adaptive pool", (2, 2, 4)),
    ]
    assert cost.macs == 14 * 14 * 27 * 4


def test_table_has_a_line_per_layer_and_the_totals():
    cost = row_cost("resnet20")
    lines = str(cost).splitlines()
    assert len(lines) == len(cost.layers) + 4
    assert lines[2].split() == ["conv1", "conv", "3x3", "32x32x16", "432", "442,368", "65,536", "3x3", "1x1"]
    assert lines[-1].split()[:3] == ["total", "269,722", "40,551,040"]


@pytest.mark.parametrize("shape", [(32, 32), (0, 32, 3), (1, 32, 32, 3), (32.0, 32, 3), 32])
def test_input_shape_that_is_none_is_one_sentence(shape: Any):
    with pytest.raises(ValueError, match=r"\(H, W, C\) of one image"):
        flaxarch.cost(flaxarch.create("resnet20"), shape)


def test_too_small_an_image_is_the_networks_own_sentence():
    with pytest.raises(ValueError, match="needs images of at least 32x32"):
        flaxarch.cost(flaxarch.create("resnet18"), (31, 40, 3))
