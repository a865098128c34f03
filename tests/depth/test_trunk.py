"""Which blocks a network has: for all families by tracing, never by name."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import flaxarch
from flaxarch import depth
from flaxarch.loops import unstack_blocks
from flaxarch.models.unet import PyramidUNet
from tests.depth.nets import SHAPE, tiny_densenet, tiny_preact, tiny_resnet, tiny_vgg

_create: Any = flaxarch.create
RESIDUAL = {
    "post-activation": (tiny_resnet(), SHAPE, 9),
    "pre-activation, in a loop": (tiny_preact(scan=True), SHAPE, 7),
    "bypass": (_create("squeezenet1_1_bypass"), (32, 32, 3), 4),
    "dual path": (_create("dpn68").clone(stage_sizes=(1, 2), growths=(16, 32)), (32, 32, 3), 3),
}
MORE = {
    "wide": (_create("wrn_16_4").clone(widen_factor=1), SHAPE, 6),
    "aggregated": (_create("resnext29_8x64d").clone(stage_sizes=(1, 2, 1)), SHAPE, 4),
    "excited": (_create("seresnet20").clone(stage_sizes=(1, 2, 1)), SHAPE, 4),
    "stochastic depth": (_create("resnet110_sd").clone(stage_sizes=(1, 2, 1)), SHAPE, 4),
    "inverted": (_create("mobilenet_v2_035").clone(stage_sizes=(1, 2, 2, 1, 1, 1, 1)), (32, 32, 3), 2),
    "separable": (_create("xception").clone(num_middle=2), (32, 32, 3), 6),
    "inception": (_create("inception_resnet_v2").clone(stage_sizes=(1, 1, 2)), (75, 75, 3), 4),
}


@pytest.mark.parametrize(
    ("model", "shape", "num_blocks"),
    [
        *(pytest.param(*row, id=name) for name, row in RESIDUAL.items()),
        *(pytest.param(*row, id=name, marks=pytest.mark.slow) for name, row in MORE.items()),
    ],
)
def test_residual_network_has_one_block_for_each_of_its_gates(model: Any, shape: Any, num_blocks: int):
    found = depth.blocks(model, shape)
    assert len(found) == num_blocks
    assert all(block.is_residual and block.is_deletable for block in found)
    assert depth.deletable(model, shape) == found
    images = jnp.zeros((1, *shape))
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    params = jax.eval_shape(unstack_blocks, variables)["params"]
    assert all(_has(params, path) for block in found for path in block.paths)
    apply = partial(model.apply, train=False)
    jax.eval_shape(apply, variables, images, gates=jnp.ones(num_blocks))
    with pytest.raises(ValueError, match=f"this network of {num_blocks} residual blocks"):
        jax.eval_shape(apply, variables, images, gates=jnp.ones(num_blocks + 1))


def _has(tree: Any, path: str) -> bool:
    for key in path.split("/"):
        if key not in tree:
            return False
        tree = tree[key]
    return True


def test_network_in_a_loop_has_the_blocks_of_the_network_without():
    assert depth.blocks(tiny_preact(scan=True), SHAPE) == depth.blocks(tiny_preact(), SHAPE)


def test_blocks_of_an_encoder_are_those_of_the_network_around_it():
    encoder = _create("resnet18").clone(stage_sizes=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    found = depth.blocks(PyramidUNet(encoder, num_classes=3), (32, 32, 3))
    assert [block.name for block in found] == [f"encoder/layer{i}_0" for i in (1, 2, 3, 4)]


def test_layers_of_a_network_without_shortcuts_are_convolutions_with_their_norms():
    found = depth.blocks(tiny_vgg(), (32, 32, 3))
    assert [block.name for block in found if not block.is_deletable] == ["conv1_1", "conv2_1", "conv4_1"]
    names = ("3_1", "4_2", "5_1", "5_2", "5_3")
    paths = [block.paths for block in depth.deletable(tiny_vgg(), (32, 32, 3))]
    assert paths == [(f"conv{name}", f"bn{name}") for name in names]


def test_blocks_of_a_plain_network_are_those_of_its_residual_twin():
    plain = depth.deletable(tiny_resnet(shortcut=None), SHAPE)
    twin = depth.blocks(tiny_resnet(), SHAPE)
    kept = [block.name for block in twin if block.input_shape == block.output_shape]
    assert [block.name for block in plain] == kept
    assert not any(block.is_residual for block in plain)


def test_network_that_keeps_no_shape_has_nothing_to_delete_and_says_so():
    assert [block.name for block in depth.blocks(tiny_densenet(), SHAPE)] == [
        "conv0",
        "block1_layer1",
        "block1_layer2",
        "transition1",
        "block2_layer1",
    ]
    with pytest.raises(ValueError, match="DenseNet has no block to delete"):
        depth.deletable(tiny_densenet(), SHAPE)


def test_blocks_that_are_alike_are_those_of_a_stage_that_keep_the_shape():
    names = [block.name for block in depth.blocks(tiny_preact(), SHAPE)]
    found = [[names[i] for i in alike] for alike in depth.groups(depth.blocks(tiny_preact(), SHAPE))]
    # the first unit's input is activated by the stem: it has no norm of its own, and has no like here
    assert found == [["layer2_1", "layer2_2"]]
    alike = depth.groups(depth.blocks(tiny_resnet(), SHAPE))
    assert alike == [[0, 1, 2], [4, 5], [7, 8]]


class Norms(nn.Module):
    """A norm ahead of all layers, dropout, and a module called through its base class."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.LayerNorm(name="first")(images)
        x = nn.Dropout(0.5, deterministic=not train)(Derived(3, name="layer")(x))
        x = nn.LayerNorm(name="second")(x)
        return nn.Dense(self.num_classes, name="out")(x.mean(axis=(1, 2)))


class Derived(nn.Dense):
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return super().__call__(inputs)


def test_norm_belongs_to_the_layer_ahead_of_it_and_dropout_to_none():
    found = depth.blocks(Norms(), SHAPE)
    assert [block.paths for block in found] == [("layer", "second"), ("out",)]
    assert found[0].input_shape == found[0].output_shape == SHAPE


class HeadOnly(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        return images.mean(axis=(1, 2))


def test_network_without_layers_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="HeadOnly has no block: it calls no layer"):
        depth.blocks(HeadOnly(), SHAPE)
