"""Pre-activation ResNets: the paper's tables, its placements of the activation and its shortcuts, sources."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch.layers import Network
from flaxarch.loops import stack_blocks, unstack_blocks
from flaxarch.models import preact_resnet as preact
from flaxarch.models import preact_unit
from flaxarch.models.cifar_resnet import CifarResNet
from flaxarch.models.preact_resnet import CifarPreAct, CifarPreActBottleneck, PreActResNet, bottleneck_sizes
from flaxarch.ops import use_native_forms
from tests.reference import random_variables

IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
ONE_STAGE = CifarPreAct((3,), widths=(16,))


def pyramid_shapes(model: Network, size: int) -> dict[int, tuple[int, ...]]:
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with use_native_forms(True):
        variables = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
        maps = jax.eval_shape(flaxarch.features(model), *variables, images)
    return {stride: x.shape[1:] for stride, x in maps.items()}


@pytest.mark.parametrize("name", ["preact_resnet200", "resnetv2_50", "resnet50v2_keras"])
def test_pyramid_of_bottlenecks_has_the_papers_widths(name: str):
    # Keras halves the map at the end of a stage: the last map at stride 8 is the third stage's all the same
    model = flaxarch.create(name).clone(stage_sizes=(2, 2, 2, 2))
    assert pyramid_shapes(model, 224) == {
        2: (112, 112, 64),
        4: (56, 56, 256),
        8: (28, 28, 512),
        16: (14, 14, 1024),
        32: (7, 7, 2048),
    }


def test_pyramids_of_cifar_networks_start_at_the_image():
    basic, bottleneck = (
        flaxarch.create(f"preact_resnet{depth}").clone(stage_sizes=(2, 2, 2)) for depth in (110, 164)
    )
    assert pyramid_shapes(basic, 32) == {1: (32, 32, 16), 2: (16, 16, 32), 4: (8, 8, 64)}
    assert pyramid_shapes(bottleneck, 32) == {1: (32, 32, 64), 2: (16, 16, 128), 4: (8, 8, 256)}


def counts(
    sizes: tuple[int, ...], widths: tuple[int, ...], is_bottleneck: bool, imagenet: bool
) -> tuple[int, int, int]:
    """Parameters, batch statistics and multiply-accumulates of the paper's networks, by arithmetic."""
    params = stats = macs = 0

    def conv(c_in: int, c_out: int, kernel: int, size: int) -> None:
        nonlocal params, macs
        params += c_in * c_out * kernel**2
        macs += c_in * c_out * kernel**2 * size**2

    def norm(c: int) -> None:
        nonlocal params, stats
        params, stats = params + 2 * c, stats + 2 * c

    c, size = (64, 56) if imagenet else (16, 32)
    conv(3, c, 7 if imagenet else 3, 112 if imagenet else 32)
    norm(c)  # of the first unit, once for both paths
    for i, (n, width) in enumerate(zip(sizes, widths, strict=True)):
        for j in range(n):
            if i or j:
                norm(c)
            size //= 2 if i and not j else 1
            if is_bottleneck:
                inner = width // 4
                conv(c, inner, 1, size)  # has the stride
                norm(inner)
                conv(inner, inner, 3, size)
                norm(inner)
                conv(inner, width, 1, size)
                if c != width:
                    conv(c, width, 1, size)
            else:
                conv(c, width, 3, size)
                norm(width)
                conv(width, width, 3, size)
            c = width
    norm(c)
    classes = 1000 if imagenet else 10
    return params + (c + 1) * classes, stats, macs + c * classes


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("preact_resnet110", ((18,) * 3, (16, 32, 64), False, False)),
        ("preact_resnet164", ((18,) * 3, (64, 128, 256), True, False)),
        ("preact_resnet1001", ((111,) * 3, (64, 128, 256), True, False)),
        ("preact_resnet200", ((3, 24, 36, 3), (256, 512, 1024, 2048), True, True)),
    ],
)
def test_published_counts_are_those_of_arithmetic(name: str, args: Any):
    row = flaxarch.published(name)
    assert counts(*args) == (row.num_params, row.num_batch_stats, row.macs)


@pytest.mark.parametrize("depth", [20, 164, 1001])
def test_bottleneck_network_has_as_many_layers_as_its_depth(depth: int):
    assert 3 * sum(bottleneck_sizes(depth)) + 2 == depth


@pytest.mark.parametrize("depth", [2, 111, 163, -8])
def test_other_depths_than_9n_plus_2_are_refused(depth: int):
    with pytest.raises(ValueError, match=rf"depth {depth} is not 9n \+ 2"):
        bottleneck_sizes(depth)


def taken(model: PreActResNet, params: Any, batch_stats: Any, images: jax.Array = IMAGES) -> Any:
    """What each module of the network returns in evaluation."""

    @jax.jit
    def outputs(images: jax.Array) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, images, train=False, capture_intermediates=True)[1]["intermediates"]

    tree = outputs(images)
    return jax.tree.map(lambda calls: calls[0], tree, is_leaf=lambda x: isinstance(x, tuple))


def test_signal_of_identity_shortcuts_is_the_first_plus_the_sum_of_all_branches():
    found = taken(ONE_STAGE, *random_variables(ONE_STAGE))
    branches = [found[f"layer1_{j}"]["conv2"]["__call__"] for j in range(3)]
    first, last = nn.relu(found["norm1"]["__call__"]), found["layer1_2"]["__call__"]
    np.testing.assert_allclose(last, first + sum(branches), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "end"),
    [
        # x, the last convolution and the last norm of a unit -> what the unit returns
        (preact_unit.ORIGINAL, lambda x, conv, norm: nn.relu(x + norm)),
        (preact_unit.BN_AFTER_ADDITION, lambda x, conv, norm: nn.relu(norm)),
        (preact_unit.RELU_BEFORE_ADDITION, lambda x, conv, norm: x + nn.relu(norm)),
        (preact_unit.RELU_ONLY_PREACT, lambda x, conv, norm: x + norm),
        (preact_unit.FULL_PREACT, lambda x, conv, norm: x + conv),
    ],
    ids=["original", "bn_after_addition", "relu_before_addition", "relu_only", "full"],
)
def test_unit_ends_as_its_row_of_figure_4(activation: preact_unit.Activation, end: Any):
    model = ONE_STAGE.clone(activation=activation)
    params, batch_stats = random_variables(model)
    found = taken(model, params, batch_stats)
    # each convolution has its norm, whichever side it stands on; the first unit's is the stem's
    has_head_norm = activation is preact_unit.FULL_PREACT
    assert ("norm" in params, "norm1" in params["layer1_0"]) == (has_head_norm, not has_head_norm)
    for j in (1, 2):
        x, unit = found[f"layer1_{j - 1}"]["__call__"], found[f"layer1_{j}"]
        conv, norm = unit["conv2"]["__call__"], unit["norm2"]["__call__"]
        np.testing.assert_allclose(unit["__call__"], end(x, conv, norm), rtol=1e-5, atol=1e-5)
        if activation is preact_unit.BN_AFTER_ADDITION:
            p, s = params[f"layer1_{j}"]["norm2"], batch_stats[f"layer1_{j}"]["norm2"]
            p, s = (jax.tree.map(lambda v: v[None, None, None], tree) for tree in (p, s))
            normed = (x + conv - s["mean"]) / jnp.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]
            np.testing.assert_allclose(norm, normed, rtol=1e-4, atol=1e-4)
    if activation is preact_unit.RELU_BEFORE_ADDITION:  # "monotonically increasing"
        assert bool((found["layer1_2"]["__call__"] >= found["layer1_1"]["__call__"]).all())


def test_original_activation_is_the_cifar_resnet():
    ours, theirs = CifarPreAct((1, 1, 1), activation=preact_unit.ORIGINAL), CifarResNet((1, 1, 1))
    params, batch_stats = random_variables(ours)

    def renamed(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        return {key.replace("norm", "bn"): renamed(value) for key, value in tree.items()}

    found, expected = (
        jax.jit(partial(flaxarch.functional(model).apply, train=True))(*variables, IMAGES)
        for model, variables in (
            (ours, (params, batch_stats)),
            (theirs, (renamed(params), renamed(batch_stats))),
        )
    )
    chex.assert_trees_all_close((found[0], renamed(found[1])), expected, rtol=1e-5, atol=1e-5)


X = jax.random.normal(jax.random.key(3), (2, 4, 4, 8))


def summands(shortcut: Any, strides: int = 1, features: int = 8, train: bool = False) -> Any:
    """What a shortcut makes of x and of a branch of threes, in a fresh unit; and the unit's variables."""
    y = jnp.full((2, 4 // strides, 4 // strides, features), 3.0)
    unit: Any = SimpleNamespace(
        features=features,
        strides=strides,
        conv=partial(nn.Conv, padding=0, use_bias=False),
        norm=nn.BatchNorm,
        dropout=partial(nn.Dropout, deterministic=not train),
    )

    class Sum(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> Any:
            return shortcut(unit, x, nn.relu(x), y)

    variables = Sum().init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)
    (h, branch) = Sum().apply(variables, X, rngs={"dropout": jax.random.key(2)})
    return h, branch, variables


def test_identity_shortcut_is_option_a():
    h, branch, _ = summands(preact_unit.identity)
    chex.assert_trees_all_equal(h, X)
    assert bool((branch == 3).all())
    h, _, _ = summands(preact_unit.identity, strides=2, features=16)
    chex.assert_trees_all_equal(h[..., 4:12], X[:, ::2, ::2])
    assert not h[..., :4].any()
    assert not h[..., 12:].any()


def test_constant_scaling_halves_both_paths_or_the_shortcut_alone():
    h, branch, _ = summands(preact_unit.constant_scaling)
    chex.assert_trees_all_equal(h, 0.5 * X)
    assert bool((branch == 1.5).all())
    h, branch, _ = summands(partial(preact_unit.constant_scaling, branch=1.0))
    chex.assert_trees_all_equal(h, 0.5 * X)
    assert bool((branch == 3).all())


def test_dropout_shortcut_drops_in_training_only():
    h, branch, _ = summands(preact_unit.dropout_shortcut)
    chex.assert_trees_all_equal(h, X)
    h, branch, _ = summands(preact_unit.dropout_shortcut, train=True)
    assert bool(((h == 0) | jnp.isclose(h, 2 * X)).all())
    assert 0.3 < float((h == 0).mean()) < 0.7
    assert bool((branch == 3).all())


@pytest.mark.parametrize("features", [8, 16])
def test_gates_start_closed_by_their_bias_and_weigh_the_paths_as_the_paper_says(features: int):
    strides = features // 8
    x, _, _ = summands(preact_unit.identity, strides, features)
    for shortcut, weighs_branch in (
        (preact_unit.exclusive_gating, True),
        (preact_unit.shortcut_only_gating, False),
    ):
        h, branch, variables = summands(partial(shortcut, bias=-2.0), strides, features)
        kernel, bias = (variables["params"]["gate"][key] for key in ("kernel", "bias"))
        assert (kernel.shape, bool((bias == -2).all())) == ((1, 1, features, features), True)
        gate = nn.sigmoid(x @ kernel[0, 0] - 2)
        np.testing.assert_allclose(h, (1 - gate) * x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(branch, 3 * gate if weighs_branch else jnp.full_like(gate, 3), rtol=1e-4)
        default, _, _ = summands(shortcut, strides, features)
        assert bool((jnp.abs(default - x) <= 0.1 * jnp.abs(x)).all())  # sigmoid(-6) is 0.0025


def test_1x1_shortcuts_read_the_activated_input():
    for shortcut in (preact_unit.convolution, preact_unit.projection, preact_unit.strided_identity):
        h, _, variables = summands(shortcut, strides=2, features=16)
        layer = variables["params"]["shortcut"]
        np.testing.assert_allclose(h, nn.relu(X)[:, ::2, ::2] @ layer["kernel"][0, 0], rtol=1e-4, atol=1e-5)
        assert ("bias" in layer) == (shortcut is preact_unit.strided_identity)
    for shortcut in (preact_unit.projection, preact_unit.strided_identity):
        h, _, _ = summands(shortcut)
        chex.assert_trees_all_equal(h, X)
    h, _, _ = summands(preact_unit.strided_identity, strides=2)
    chex.assert_trees_all_equal(h, X[:, ::2, ::2])


def test_zero_at_a_unit_equals_the_network_without_it():
    model = CifarPreActBottleneck((2,), widths=(64,))
    params, batch_stats = random_variables(model)
    gates = jnp.array([1.0, 0.0])
    logits, _ = jax.jit(partial(flaxarch.functional(model).apply, train=False))(
        params, batch_stats, IMAGES, gates=gates
    )
    short = model.clone(stage_sizes=(1,))
    params, batch_stats = (
        {k: v for k, v in tree.items() if k != "layer1_1"} for tree in (params, batch_stats)
    )
    expected, _ = jax.jit(partial(flaxarch.functional(short).apply, train=False))(params, batch_stats, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_zeros_around_keras_max_pool_count_and_torchs_padding_does_not():
    class Stem(nn.Module):
        stem: preact.PreActStem

        @nn.compact
        def __call__(self, images: jax.Array) -> jax.Array:
            conv = partial(nn.Conv, kernel_init=nn.initializers.constant(-1.0))
            return self.stem.layers(self, images, conv, lambda x: x)

    images = jnp.ones((1, 16, 16, 3))
    keras, timm = (
        Stem(stem).init_with_output(jax.random.key(0), images)[0]
        for stem in (preact.keras_stem, preact.timm_stem)
    )
    assert keras.shape == timm.shape == (1, 4, 4, 64)
    assert bool((timm < 0).all())
    assert not keras[:, 0].any()
    assert not keras[:, :, 0].any()
    chex.assert_trees_all_equal(keras[:, 1:, 1:], timm[:, 1:, 1:])


@pytest.mark.parametrize(
    ("name", "conv_std", "dense_std"),
    [
        # the authors' and timm's: normal, sqrt(2 / fan_out); heads uniform +-1 / sqrt(fan_in), normal 0.01
        ("preact_resnet164", lambda n_in, n_out: math.sqrt(2 / n_out), lambda n: 1 / math.sqrt(3 * n)),
        ("resnetv2_50", lambda n_in, n_out: math.sqrt(2 / n_out), lambda n: 0.01),
        (
            "resnet50v2_keras",
            lambda n_in, n_out: math.sqrt(2 / (n_in + n_out)),
            lambda n: math.sqrt(2 / (n + 10)),
        ),
    ],
)
def test_network_starts_as_its_source_does(name: str, conv_std: Any, dense_std: Any):
    row = flaxarch.create(name, num_classes=10)
    model = row.clone(stage_sizes=(1,), widths=(128,), stem=preact.cifar_stem)
    params, _ = flaxarch.functional(model).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 4, 4, 3), float))
    for layer in ("conv2", "conv3"):
        kernel = np.asarray(params["layer1_0"][layer]["kernel"])
        area = kernel.shape[0] * kernel.shape[1]
        expected = conv_std(area * kernel.shape[2], area * kernel.shape[3])
        np.testing.assert_allclose(kernel.std(), expected, rtol=0.06)
    head = params["fc"]
    np.testing.assert_allclose(np.asarray(head["kernel"]).std(), dense_std(128), rtol=0.08)
    assert not head["bias"].any()
    with_bias = {layer for layer, leaves in params["layer1_0"].items() if {"kernel", "bias"} <= set(leaves)}
    assert with_bias == ({"shortcut", "conv3"} if name == "resnet50v2_keras" else set())


@pytest.mark.parametrize(
    ("train", "gates"), [(True, jnp.linspace(0.5, 1, 9)), (False, None)], ids=["trained", "evaluated"]
)
def test_units_in_a_loop_equal_units_in_turn(train: bool, gates):
    model = CifarPreActBottleneck(bottleneck_sizes(29), widths=(16, 32, 64))
    variables = random_variables(model)

    def run(model, variables):
        apply = partial(flaxarch.functional(model).apply, train=train, gates=gates)
        return jax.jit(apply)(*variables, IMAGES)

    found = unstack_blocks(run(model.clone(scan=True), stack_blocks(model, variables)))
    expected = run(model, variables)
    chex.assert_trees_all_equal_structs(found, expected)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)
