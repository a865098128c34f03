"""Inception v4 and the Inception-ResNets: the figures' shapes, scales and gates, the released last block."""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.convert import keras, strict
from flaxarch.convert.rules import TORCH, Rules, slots
from flaxarch.models.inception_resnet import InceptionResNet
from flaxarch.ops import max_pool, use_native_forms
from tests.golden import fill


@pytest.fixture(autouse=True)
def native_forms() -> Iterator[None]:
    """One convolution is one operation to trace and to compile."""
    with use_native_forms(True):
        yield


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        # Fig. 9; Fig. 14, 7 and 12; Fig. 3, 7 and 18; timm's
        ("inception_v4", (64, 192, 384, 1024, 1536)),
        ("inception_resnet_v1", (64, 192, 256, 896, 1792)),
        ("inception_resnet_v2_paper", (64, 192, 384, 1152, 2144)),
        ("inception_resnet_v2", (64, 192, 320, 1088, 1536)),
    ],
)
def test_grids_are_those_of_the_figures(name: str, widths: tuple[int, ...]):
    model = flaxarch.create(name)
    images = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    variables = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    maps = jax.eval_shape(flaxarch.features(model), *variables, images)
    sizes = {2: 147, 4: 71, 8: 35, 16: 17, 32: 8}
    assert {stride: x.shape[1:] for stride, x in maps.items()} == {
        stride: (size, size, features) for (stride, size), features in zip(sizes.items(), widths, strict=True)
    }


def tiny_stem(network: Any, images: jax.Array, unit: Any) -> jax.Array:
    """75x75 images to the 7x7 grid that the released stems make of them."""
    x = unit(6, (3, 3), strides=2, name="conv2d_1a")(images)
    return max_pool(x, (6, 6), (5, 5))


PAPER: Any = InceptionResNet(
    stem=tiny_stem,
    block_a=((2,), (2, 2), (2, 3, 4)),
    reduction_a=(2, 3, 4, 4),
    block_b=((3,), (2, 3, 4)),
    reduction_b=((2, 3), (2, 3), (2, 3, 4)),
    block_c=((3,), (2, 3, 4)),
    stage_sizes=(2, 1, 2),
    dropout_rate=0.0,
    num_classes=5,
)
RELEASED: Any = PAPER.clone(last_features=7)
NUM_BLOCKS = 5
OURS = Rules("ours", TORCH, ((r"/", "."),))
BLOCKS = ("block35_1", "block35_2", "block17_1", "block8_1", "block8_2")
IMAGES = jax.random.normal(jax.random.key(0), (2, 75, 81, 3))


@cache
def random_variables(model: Any) -> tuple[Any, Any]:  # an InceptionResNet
    params, batch_stats = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), IMAGES)
    shapes = {"params": params, "batch_stats": batch_stats}
    tensors = fill.tensors({slot.name: slot.source_shape for slot in slots(shapes, OURS)})
    tensors = {key: x.astype(np.float32) for key, x in tensors.items()}
    filled = strict.fill(shapes, tensors, OURS, what="the formula")
    return filled["params"], filled["batch_stats"]


@cache
def jitted(model: Any) -> Any:  # an InceptionResNet
    _, apply = flaxarch.functional(model)
    return jax.jit(lambda params, stats, gates: apply(params, stats, IMAGES, train=False, gates=gates)[0])


def logits(model: Any, gates: Any = None, params: Any = None) -> np.ndarray:
    own, batch_stats = random_variables(model)
    gates = jnp.ones(NUM_BLOCKS) if gates is None else jnp.asarray(gates, jnp.float32)
    return np.asarray(jitted(model)(params or own, batch_stats, gates))


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def with_branch_times(params: Any, block: str, factor: float) -> Any:
    """The parameters with the linear end of a block's branch multiplied."""
    conv2d = jax.tree.map(lambda x: x * factor, params[block]["conv2d"])
    return params | {block: params[block] | {"conv2d": conv2d}}


@pytest.mark.parametrize("model", [PAPER, RELEASED], ids=["paper", "released"])
def test_gate_multiplies_the_branch_of_its_block(model: Any):
    params, _ = random_variables(model)
    for i, block in enumerate(BLOCKS):
        gates = np.ones(NUM_BLOCKS)
        for gate in (0.0, 0.5):
            gates[i] = gate
            gated = logits(model, gates)
            assert close(gated, logits(model, params=with_branch_times(params, block, gate)))
            assert not close(gated, logits(model))


def test_gates_of_one_and_none_are_the_plain_network():
    _, apply = flaxarch.functional(PAPER)
    params, batch_stats = random_variables(PAPER)
    plain = jax.jit(partial(apply, train=False))(params, batch_stats, IMAGES)[0]
    assert close(logits(PAPER), np.asarray(plain))
    assert close(logits(PAPER, np.ones((NUM_BLOCKS, 2))), np.asarray(plain))


def test_scales_are_gates_of_whole_stages():
    scales = 0.5, 0.2, 0.7
    ratios = [new / old for new, old in zip(scales, PAPER.scales, strict=True)]
    gates = np.repeat(ratios, PAPER.stage_sizes)
    assert close(logits(PAPER.clone(scales=scales)), logits(PAPER, gates))


def test_last_block_of_the_released_form_has_neither_scale_nor_relu():
    params, batch_stats = random_variables(RELEASED)

    def last_units(model: InceptionResNet, params: Any) -> Any:
        """What the last two blocks give."""
        _, taken = model.apply(
            {"params": params, "batch_stats": batch_stats},
            IMAGES,
            train=False,
            capture_intermediates=lambda module, _: module.name in ("block8_1", "block8_2"),
            mutable=["intermediates"],
        )
        return taken["intermediates"]

    run = jax.jit(partial(last_units, RELEASED))
    seen = run(params)
    before, last = (seen[name]["__call__"][0] for name in ("block8_1", "block8_2"))
    assert before.min() >= 0 > last.min()
    doubled = run(with_branch_times(params, "block8_2", 2.0))["block8_2"]["__call__"][0]
    # with a branch twice as large, what is added doubles: the sum is not cut at zero
    np.testing.assert_allclose(doubled - last, last - before, rtol=1e-3, atol=1e-5)
    assert close(logits(RELEASED.clone(scales=(0.17, 0.10, 0.0))), logits(RELEASED, [1, 1, 1, 0, 1]))


@pytest.mark.parametrize("shape", [(4,), (6,), (5, 2, 1)])
def test_gates_of_another_number_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"do not fit this network of 5 residual blocks"):
        jax.eval_shape(partial(logits, PAPER, np.ones(shape)))


def test_keras_numbers_its_203_units_and_names_the_rest():
    model = flaxarch.create("inception_resnet_v2_keras")
    images = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    params, _ = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    layers = {slot.name.split("/")[0] for slot in slots({"params": params}, keras.INCEPTION_RESNET)}
    numbered = {f"{kind}_{i}" for kind in ("conv2d", "batch_normalization") for i in range(1, 203)}
    named = {f"block{size}_{i}_conv" for size, n in ((35, 10), (17, 20), (8, 10)) for i in range(1, n + 1)}
    assert layers == numbered | named | {
        "conv2d",
        "batch_normalization",
        "conv_7b",
        "conv_7b_bn",
        "predictions",
    }


def test_layers_of_timm_start_as_torch_s():
    model = flaxarch.create("inception_v4")

    def init(key):
        params, _ = flaxarch.functional(model).init(key, jnp.zeros((1, 75, 75, 3)))
        return {"conv": params["inception_c3"]["branch0"]["conv"]["kernel"], "fc": params["last_linear"]}

    leaves = jax.jit(init)(jax.random.key(0))
    bound = 1536**-0.5
    for x in (leaves["conv"], leaves["fc"]["kernel"], leaves["fc"]["bias"]):
        assert 0.98 * bound < jnp.abs(x).max() <= bound
    np.testing.assert_allclose(leaves["conv"].std(), bound / 3**0.5, rtol=0.01)
