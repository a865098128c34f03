"""The feature pyramid, dilation, and the other fields of the residual families."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.models.cifar_resnet import CifarResNet, stage_sizes
from flaxarch.models.resnet import Bottleneck, ResNet, avg_pool_projection, deep_stem
from flaxarch.models.wide_resnet import WideResNet
from tests.reference import random_variables

BOTTLENECKS = ResNet((1, 1, 1, 1), block=Bottleneck, widths=(8, 16, 32, 64))


def pyramid_shapes(model, height: int, width: int) -> dict[int, tuple[int, ...]]:
    init, _ = flaxarch.functional(model)
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    maps = jax.eval_shape(flaxarch.features(model), *variables, images)
    return {stride: x.shape for stride, x in maps.items()}


def test_pyramid_of_resnet50_has_its_strides_and_widths():
    model = flaxarch.create("resnet50")
    assert pyramid_shapes(model, 224, 160) == {
        2: (2, 112, 80, 64),
        4: (2, 56, 40, 256),
        8: (2, 28, 20, 512),
        16: (2, 14, 10, 1024),
        32: (2, 7, 5, 2048),
    }
    assert pyramid_shapes(model, 97, 113)[32] == (2, 4, 4, 2048)  # odd sizes round up


@pytest.mark.parametrize("name", ["resnet20", "resnet20_b", "plain20"])
def test_pyramid_of_a_cifar_resnet_starts_at_the_image(name: str):
    expected = {1: (2, 32, 28, 16), 2: (2, 16, 14, 32), 4: (2, 8, 7, 64)}
    assert pyramid_shapes(flaxarch.create(name), 32, 28) == expected


def test_pyramid_of_a_wide_resnet_starts_at_the_image():
    expected = {1: (2, 32, 32, 64), 2: (2, 16, 16, 128), 4: (2, 8, 8, 256)}
    assert pyramid_shapes(flaxarch.create("wrn_16_4"), 32, 32) == expected


@pytest.mark.parametrize("model", [BOTTLENECKS, CifarResNet(stage_sizes(8))], ids=["imagenet", "cifar"])
def test_pooling_and_the_head_make_the_logits_of_the_last_map(model):
    params, batch_stats = random_variables(model)
    images = jax.random.normal(jax.random.key(0), (2, 32, 40, 3))
    maps = jax.jit(flaxarch.features(model))(params, batch_stats, images)
    logits, _ = jax.jit(partial(flaxarch.functional(model).apply, train=False))(params, batch_stats, images)
    assert list(maps) == sorted(maps)
    pooled = np.asarray(maps[max(maps)]).mean(axis=(1, 2))
    head = params[model.head]
    np.testing.assert_allclose(pooled @ head["kernel"] + head["bias"][None], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("output_stride", "last"), [(32, (2, 2)), (16, (4, 4)), (8, (8, 8)), (4, (16, 16)), (None, (2, 2))]
)
def test_output_stride_keeps_the_weights_valid_and_the_map_large(output_stride, last: tuple[int, int]):
    dilated = BOTTLENECKS.clone(output_stride=output_stride)
    chex.assert_trees_all_equal_shapes(
        *(jax.eval_shape(partial(random_variables, m)) for m in (BOTTLENECKS, dilated))
    )
    shapes = pyramid_shapes(dilated, 64, 64)
    assert max(shapes) == (output_stride or 32)
    assert shapes[max(shapes)] == (2, *last, 256)


def test_dilation_sees_what_the_stride_sees():
    # Where every second value of the dilated network stands, the strided one has the same, up to the last
    # stage: a dilated 3x3 reads from the dense map exactly what the 3x3 reads from the strided one.
    strided, dilated = BOTTLENECKS, BOTTLENECKS.clone(output_stride=16)
    variables = random_variables(strided)
    images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    dense = jax.jit(flaxarch.features(dilated))(*variables, images)[16]
    sparse = jax.jit(flaxarch.features(strided))(*variables, images)[32]
    # in a stage of one block torchvision keeps the dilation of the stage before, here 1: same window
    np.testing.assert_allclose(dense[:, ::2, ::2], sparse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        BOTTLENECKS.clone(stage_sizes=(2, 2, 2, 2)),
        flaxarch.create("resnet18").clone(widths=(8, 16, 32, 64)),
        CifarResNet(stage_sizes(14)),
    ],
    ids=["bottleneck", "basic", "cifar"],
)
def test_zero_init_residual_starts_each_block_as_the_identity(model):
    """Blocks that keep the shape do nothing, so the network with one block a stage has the same logits."""
    model = model.clone(zero_init_residual=True)
    init, apply = flaxarch.functional(model)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    # the norms' variables are those of `init`; its kernels would take long to compile
    variables = jax.jit(lambda key: jax.tree.map(lambda x: x if x.ndim == 1 else None, init(key, images)))
    params, batch_stats = jax.tree.map(
        lambda initial, other: other if initial is None else initial,
        variables(jax.random.key(1)),
        random_variables(model),
        is_leaf=lambda x: x is None,
    )
    last_norm = "bn3" if "bn3" in params["layer1_0"] else "bn2"
    for name, block in params.items():
        if name.startswith("layer"):
            assert not block[last_norm]["scale"].any()
            assert bool((block["bn1"]["scale"] == 1).all())
    short = model.clone(stage_sizes=(1,) * len(model.stage_sizes))
    names = [name for name in params if not name.startswith("layer") or name.endswith("_0")]
    short_params, short_stats = ({k: t[k] for k in names if k in t} for t in (params, batch_stats))
    logits, _ = jax.jit(partial(apply, train=False))(params, batch_stats, images)
    apply = flaxarch.functional(short).apply
    expected, _ = jax.jit(partial(apply, train=False))(short_params, short_stats, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_resnet_d_has_its_stem_and_an_unstrided_projection():
    model = flaxarch.create("resnet50").clone(stem=deep_stem, shortcut=avg_pool_projection)
    init, _ = flaxarch.functional(model)
    params, batch_stats = jax.eval_shape(
        init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    )
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (params, batch_stats)]
    assert sizes == [25_576_264, 53_248]  # timm's resnet50d
    assert pyramid_shapes(model, 65, 65) == {
        2: (2, 33, 33, 64),
        4: (2, 17, 17, 256),
        8: (2, 9, 9, 512),
        16: (2, 5, 5, 1024),
        32: (2, 3, 3, 2048),
    }


@pytest.mark.parametrize("depth", [8, 14, 26, 38, 1202])
def test_any_depth_of_6n_plus_2_makes_a_cifar_resnet(depth: int):
    sizes = stage_sizes(depth)
    assert len(set(sizes)) == 1
    assert 2 * sum(sizes) + 2 == depth


def test_network_of_an_unnamed_depth_has_that_many_layers():
    params, _ = random_variables(CifarResNet(stage_sizes(26)))
    layers = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]  # option A has no others
    assert len(layers) == 26


@pytest.mark.parametrize(
    ("depth", "near"), [(21, "20 or 26"), (25, "20 or 26"), (2, "8 or 14"), (-4, "8 or 14")]
)
def test_other_depths_are_refused_and_the_nearest_named(depth: int, near: str):
    with pytest.raises(ValueError, match=rf"depth {depth} is not 6n \+ 2 .*: take {near}"):
        stage_sizes(depth)


@pytest.mark.parametrize("depth", [15, 4, 17])
def test_wide_resnets_of_other_depths_than_6n_plus_4_are_refused(depth: int):
    model = WideResNet(depth, 1)
    with pytest.raises(ValueError, match=rf"depth is 6n \+ 4, as 16, 28 or 40, not {depth}"):
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_model_without_stages_has_no_pyramid():
    from flax import linen as nn

    class Mean(nn.Module):
        def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
            return images.mean(axis=(1, 2))

    with pytest.raises(ValueError, match="Mean has no stages, so no feature pyramid"):
        flaxarch.features(Mean())({}, {}, jnp.zeros((1, 4, 4, 3)))
