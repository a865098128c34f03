"""DenseNets: the paper's tables, what a layer keeps, dropout, where they start, names of files."""

import math
import re
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch.convert import strict, torchvision
from flaxarch.convert.rules import slots
from flaxarch.convert.sources import SOURCES
from flaxarch.layers import Network
from flaxarch.models.densenet import DenseNet, Transition, cifar_stem
from flaxarch.ops import use_native_forms
from tests.reference import random_variables

TINY = DenseNet(4, (2, 1), stem=cifar_stem, num_classes=3)
SHALLOW = flaxarch.create("densenet121").clone(block_sizes=(1, 1, 1, 1))


def pyramid_shapes(model: Network, size: int) -> dict[int, tuple[int, ...]]:
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with use_native_forms(True):
        variables = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
        maps = jax.eval_shape(flaxarch.features(model), *variables, images)
    return {stride: x.shape[1:] for stride, x in maps.items()}


def test_pyramid_of_densenet121_is_that_of_table_1_and_odd_sizes_round_down():
    assert pyramid_shapes(flaxarch.create("densenet121"), 224) == {
        2: (112, 112, 64),
        4: (56, 56, 256),
        8: (28, 28, 512),
        16: (14, 14, 1024),
        32: (7, 7, 1024),
    }
    sizes = [shape[:2] for shape in pyramid_shapes(SHALLOW, 97).values()]
    assert sizes == [(49, 49), (25, 25), (12, 12), (6, 6), (3, 3)]


def test_pyramid_of_cifar_networks_starts_at_the_image():
    model = flaxarch.create("densenet_40_12")
    assert pyramid_shapes(model, 32) == {1: (32, 32, 160), 2: (16, 16, 304), 4: (8, 8, 448)}


def counts(
    k: int, blocks: tuple[int, ...], theta: float, bottleneck: bool, imagenet: bool
) -> tuple[int, int, int]:
    """Parameters, batch statistics and multiply-accumulates, by arithmetic from the paper's Table 1."""
    params = stats = macs = 0

    def conv(c_in: int, c_out: int, kernel: int, size: int) -> None:
        nonlocal params, macs
        params += c_in * c_out * kernel**2
        macs += c_in * c_out * kernel**2 * size**2

    def norm(c: int) -> None:
        nonlocal params, stats
        params, stats = params + 2 * c, stats + 2 * c

    c = 2 * k if bottleneck else 16
    conv(3, c, 7 if imagenet else 3, 112 if imagenet else 32)
    size = 56 if imagenet else 32
    if imagenet:
        norm(c)
    for i, num_layers in enumerate(blocks):
        if i > 0:
            norm(c)
            conv(c, int(theta * c), 1, size)
            c, size = int(theta * c), size // 2
        for _ in range(num_layers):
            norm(c)
            if bottleneck:
                conv(c, 4 * k, 1, size)
                norm(4 * k)
            conv(4 * k if bottleneck else c, k, 3, size)
            c += k
    norm(c)
    classes = 1000 if imagenet else 10
    return params + (c + 1) * classes, stats, macs + c * classes


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("densenet121", (32, (6, 12, 24, 16), 0.5, True, True)),  # so the arithmetic is the libraries'
        ("densenet264", (32, (6, 12, 64, 48), 0.5, True, True)),
        ("densenet_40_12", (12, (12,) * 3, 1.0, False, False)),
        ("densenet_100_12", (12, (32,) * 3, 1.0, False, False)),
        ("densenet_100_24", (24, (32,) * 3, 1.0, False, False)),
        ("densenet_bc_100_12", (12, (16,) * 3, 0.5, True, False)),
        ("densenet_bc_250_24", (24, (41,) * 3, 0.5, True, False)),
        ("densenet_bc_190_40", (40, (31,) * 3, 0.5, True, False)),
    ],
)
def test_published_counts_are_those_of_arithmetic(name: str, args: Any):
    row = flaxarch.published(name)
    assert counts(*args) == (row.num_params, row.num_batch_stats, row.macs)


@pytest.mark.parametrize(("model", "smallest"), [(SHALLOW, 29), (TINY, 2)], ids=["imagenet", "cifar"])
def test_smallest_image_leaves_one_pixel(model: Network, smallest: int):
    shapes = pyramid_shapes(model, smallest)
    assert shapes[max(shapes)][:2] == (1, 1)
    with pytest.raises(ValueError, match=f"needs images of at least {smallest}x{smallest} pixels"):
        pyramid_shapes(model, smallest - 1)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_layer_keeps_all_maps_before_it_and_adds_growth_rate_of_its_own(bottleneck: bool):
    model = TINY.clone(block_sizes=(3,), bottleneck=bottleneck)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params, batch_stats = random_variables(model)

    @jax.jit
    def outputs(images: jax.Array) -> Any:
        _, taken = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=False,
            capture_intermediates=lambda module, _: str(module.name).startswith(("conv0", "block")),
        )
        return taken["intermediates"]

    found = outputs(images)
    x = found["conv0"]["__call__"][0]
    assert x.shape[-1] == (8 if bottleneck else 16)
    for j in (1, 2, 3):
        y = found[f"block1_layer{j}"]["__call__"][0]
        assert y.shape[-1] == x.shape[-1] + 4
        chex.assert_trees_all_equal(y[..., : x.shape[-1]], x)
        x = y


def test_transition_compresses_rounding_down_and_leaves_out_a_last_odd_row_and_column():
    conv = partial(nn.Conv, use_bias=False)
    norm = partial(nn.BatchNorm, use_running_average=True)
    transition = Transition(0.5, conv, norm, partial(nn.Dropout, 0.0, deterministic=True))
    x = jax.random.normal(jax.random.key(0), (1, 5, 7, 9))
    variables = transition.init(jax.random.key(1), x)
    y, cut = (np.asarray(transition.apply(variables, given)) for given in (x, x[:, :4, :6]))
    assert y.shape == (1, 2, 3, 4)
    np.testing.assert_allclose(y, cut, rtol=1e-5, atol=1e-6)


def test_dropout_stands_behind_every_convolution_but_the_first():
    params, batch_stats = random_variables(TINY)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    args = (params, batch_stats, images)
    _, apply = flaxarch.functional(TINY.clone(dropout_rate=1.0))
    _, moved = jax.jit(partial(apply, train=True))(*args, key=jax.random.key(0))
    share = 1 - TINY.conventions.momentum
    new = jax.tree.map(lambda after, before: (after - (1 - share) * before) / share, moved, batch_stats)

    def has_mean(*path: str) -> np.ndarray:
        tree = new
        for key in path:
            tree = tree[key]
        return np.abs(np.asarray(tree["mean"])) > 1e-4

    assert has_mean("block1_layer1", "norm1").all()
    assert not has_mean("block1_layer1", "norm2").any()  # behind the 1x1
    assert list(has_mean("block1_layer2", "norm1")) == [True] * 8 + [False] * 4  # behind the 3x3
    assert not has_mean("block2_layer1", "norm1").any()  # behind the transition's


def test_dropout_changes_nothing_in_evaluation():
    args = (*random_variables(TINY), jax.random.normal(jax.random.key(0), (2, 8, 8, 3)))
    logits = [
        jax.jit(partial(flaxarch.functional(TINY.clone(dropout_rate=rate)).apply, train=False))(*args)[0]
        for rate in (0.0, 0.9)
    ]
    chex.assert_trees_all_equal(*logits)


@pytest.mark.parametrize(
    ("conventions_of", "conv_std", "dense_bound"),
    [
        # torchvision: normal, sqrt(2 / fan_in), and uniform +-1 / sqrt(fan_in); Keras: Glorot uniform
        ("densenet121", lambda n_in, n_out: math.sqrt(2 / n_in), lambda n_in, n_out: 1 / math.sqrt(n_in)),
        (
            "densenet121_keras",
            lambda n_in, n_out: math.sqrt(2 / (n_in + n_out)),
            lambda n_in, n_out: math.sqrt(6 / (n_in + n_out)),
        ),
    ],
)
def test_network_starts_as_its_source_does(conventions_of: str, conv_std: Any, dense_bound: Any):
    conventions = flaxarch.create(conventions_of).conventions  # pyright: ignore[reportAttributeAccessIssue]
    model = DenseNet(16, (1, 1), stem=cifar_stem, conventions=conventions)
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    params, _ = flaxarch.functional(model).init(jax.random.key(0), images)
    for path in ("block1_layer1/conv1", "block1_layer1/conv2", "transition1/conv"):
        module, layer = path.split("/")
        kernel = np.asarray(params[module][layer]["kernel"])
        area = kernel.shape[0] * kernel.shape[1]
        expected = conv_std(area * kernel.shape[2], area * kernel.shape[3])
        np.testing.assert_allclose(kernel.std(), expected, rtol=0.1)
    kernel = np.asarray(params["classifier"]["kernel"])
    bound = dense_bound(*kernel.shape)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert not params["classifier"]["bias"].any()


def test_files_with_dotted_names_of_layers_load_too():
    params, batch_stats = random_variables(TINY)
    variables = {"params": params, "batch_stats": batch_stats}
    table = list(slots(variables, torchvision.DENSENET))
    released = [slot.name for slot in slots(variables, torchvision.DENSENET_RELEASED)]
    pattern = r"(denselayer\d+\.(?:norm|conv))\.([12])\."  # which torchvision's loader renames
    assert [re.sub(pattern, r"\1\2.", name) for name in released] == [slot.name for slot in table]
    assert "features.denseblock1.denselayer1.norm.1.weight" in released
    tensors = {
        name: slot.to_source(leaf)
        for name, slot, leaf in zip(released, table, jax.tree.leaves(variables), strict=True)
    }
    found = strict.fill(variables, tensors, torchvision.DENSENET_RELEASED, what="a released file")
    chex.assert_trees_all_equal(found, variables)
    (source,) = (source for source in SOURCES if source.rules is torchvision.DENSENET_RELEASED)
    assert "densenet121" in source.rows
