"""Squeeze-and-excitation: what the block computes, where it stands, and what differs between releases."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.layers import Conventions, Network, SqueezeExcite
from flaxarch.models.cifar_resnet import CifarResNet
from tests.reference import random_variables

# Three blocks of 16, 32 and 64 features, with excitation and without.
SMALL = flaxarch.create("seresnet20").clone(stage_sizes=(1, 1, 1))
PLAIN = CifarResNet((1, 1, 1))


def shapes(model: Network, height: int = 224, width: int = 224) -> Any:
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)


def map_shapes(model: Network, height: int, width: int) -> dict[int, tuple[int, ...]]:
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    maps = jax.eval_shape(flaxarch.features(model), *shapes(model), images)
    return {stride: x.shape[1:] for stride, x in maps.items()}


def set_gates(params: Any, value: float) -> Any:
    """The parameters with each block's excitation at sigmoid(value), whatever the image."""

    def change(path: Any, x: jax.Array) -> jax.Array:
        if "fc2" not in [key.key for key in path]:
            return x
        return jnp.full_like(x, value) if path[-1].key == "bias" else jnp.zeros_like(x)

    return jax.tree.map_with_path(change, params)


def logits(model: Network, params: Any, batch_stats: Any, images: jax.Array, **kwargs: Any) -> jax.Array:
    _, apply = flaxarch.functional(model)
    return jax.jit(partial(apply, train=False, **kwargs))(params, batch_stats, images)[0]


@pytest.fixture(scope="module")
def filled() -> tuple[Any, Any]:
    return random_variables(SMALL)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (2, 8, 8, 3))


@pytest.mark.parametrize("gate", [jax.nn.sigmoid, jax.nn.hard_sigmoid])
def test_excitation_is_the_papers_formula(gate):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3, 8))
    w1, b1, w2, b2 = (rng.normal(size=shape) for shape in ((8, 4), (4,), (4, 8), (8,)))
    # equations 2, 3, 4
    z = x.mean(axis=(1, 2))
    s = gate(np.maximum(z @ w1 + b1[None], 0) @ w2 + b2[None])
    expected = np.asarray(s)[:, None, None] * x

    conv = Conventions().conv(jnp.float32)
    params = {
        "fc1": {"kernel": w1[None, None], "bias": b1},
        "fc2": {"kernel": w2[None, None], "bias": b2},
    }
    found: Any = SqueezeExcite(4, conv, gate=gate).apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_network_whose_excitations_are_one_is_the_resnet(filled, images: jax.Array):
    params, batch_stats = set_gates(filled[0], 100.0), filled[1]
    without = {name: {key: x for key, x in module.items() if key != "se"} for name, module in params.items()}
    expected = logits(PLAIN, without, batch_stats, images)
    np.testing.assert_allclose(logits(SMALL, params, batch_stats, images), expected, rtol=1e-5, atol=1e-6)


def test_gate_of_zero_removes_a_block_as_an_excitation_of_zero_does(filled, images: jax.Array):
    params, batch_stats = filled
    closed = logits(SMALL, set_gates(params, -100.0), batch_stats, images)
    gated = logits(SMALL, params, batch_stats, images, gates=jnp.zeros(3))
    np.testing.assert_allclose(gated, closed, rtol=1e-5, atol=1e-6)
    assert not np.allclose(gated, logits(SMALL, params, batch_stats, images), rtol=1e-2)


def short(name: str) -> Network:
    """A row's network of one block a stage."""
    return flaxarch.create(name).clone(stage_sizes=(1, 1, 1, 1))


def test_stages_of_seresnet50_and_senet154_are_those_of_table_1():
    expected = {4: (56, 56, 256), 8: (28, 28, 512), 16: (14, 14, 1024), 32: (7, 7, 2048)}
    for name, stem in (("seresnet50", 64), ("legacy_seresnet50", 64), ("legacy_senet154", 128)):
        assert map_shapes(short(name), 224, 224) == {2: (112, 112, stem), **expected}


def test_unpadded_pool_of_the_legacy_networks_is_one_smaller_at_odd_sizes():
    assert map_shapes(short("seresnet50"), 97, 113)[4] == (25, 29, 256)
    assert map_shapes(short("legacy_seresnet50"), 97, 113)[4] == (24, 28, 256)


@pytest.mark.parametrize(
    ("name", "inner"),
    [("seresnet18", [8, 8, 16, 32]), ("seresnet50", [16, 32, 64, 128]), ("seresnet20", [1, 2, 4])],
)
def test_inner_features_are_a_sixteenth_and_timms_at_least_eight(name: str, inner: list[int]):
    params, _ = shapes(flaxarch.create(name).clone(stage_sizes=(1,) * len(inner)))
    blocks = [params[f"layer{i}_0"]["se"] for i in range(1, len(inner) + 1)]
    assert [block["fc1"]["bias"].shape[0] for block in blocks] == inner
    assert [block["fc2"]["kernel"].shape[2] for block in blocks] == inner


def test_senet154_halves_the_first_1x1_and_projects_by_3x3_where_it_strides():
    params, _ = shapes(short("senet154"))
    first, second = params["layer1_0"], params["layer2_0"]
    assert first["conv1"]["kernel"].shape == (1, 1, 128, 128)
    assert first["conv2"]["kernel"].shape == (3, 3, 2, 256)  # 64 groups
    assert first["downsample_conv"]["kernel"].shape == (1, 1, 128, 256)
    assert second["downsample_conv"]["kernel"].shape == (3, 3, 256, 512)
    assert params["conv1_6"]["kernel"].shape == (3, 3, 64, 128)


def test_senet154_takes_no_output_stride():
    with pytest.raises(ValueError, match="SENet-154 takes no output_stride"):
        shapes(short("senet154").clone(output_stride=16))


def test_residuals_start_at_zero_in_timms_networks_and_not_in_the_authors():
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    for name, scale in (("seresnet18", 0.0), ("legacy_seresnet50", 1.0)):
        model = short(name).clone(widths=(4, 4, 4, 4))
        block = "bn2" if name == "seresnet18" else "bn3"
        start = jax.jit(partial(_scale, model, block, images))(jax.random.key(0))
        assert bool((start == scale).all())


def _scale(model: Network, norm: str, images: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
    return flaxarch.functional(model).init(key, images)[0]["layer1_0"][norm]["scale"]


def test_excitation_starts_with_torchs_biases():
    conventions: Any = getattr(flaxarch.create("seresnet50"), "conventions")  # noqa: B009
    conv = conventions.conv(jnp.float32)
    variables: Any = SqueezeExcite(400, conv).init(jax.random.key(0), jnp.ones((1, 2, 2, 6400)))
    params = variables["params"]
    for name, fan_in, fan_out in (("fc1", 6400, 400), ("fc2", 400, 6400)):
        bias = params[name]["bias"]
        np.testing.assert_allclose(params[name]["kernel"].std(), (2 / fan_out) ** 0.5, rtol=0.02)
        np.testing.assert_allclose(bias.std(), (3 * fan_in) ** -0.5, rtol=0.15)
        assert bool(jnp.abs(bias).max() <= fan_in**-0.5)


def test_dropout_ahead_of_the_head_is_senet154s_and_acts_in_training_alone(filled, images: jax.Array):
    rates = [getattr(flaxarch.create(f"legacy_{x}"), "dropout_rate") for x in ("senet154", "seresnet50")]  # noqa: B009
    assert rates == [0.2, 0.0]
    dropping = SMALL.clone(dropout_rate=0.5)
    params, batch_stats = filled
    kept = [logits(model, params, batch_stats, images) for model in (dropping, SMALL)]
    chex.assert_trees_all_equal(*kept)
    _, apply = flaxarch.functional(dropping)
    train = jax.jit(partial(apply, params, batch_stats, images, train=True))
    one, again, other = (train(key=jax.random.key(k))[0] for k in (0, 0, 1))
    chex.assert_trees_all_equal(one, again)
    assert not np.allclose(one, other)
