"""x + g * F(x): gates as lesions, and as stochastic depth."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch.layers import Network
from flaxarch.models.cifar_resnet import CifarResNet, avg_pool_pad, stage_sizes, zero_pad
from flaxarch.models.resnet import projection
from flaxarch.residual import linear_survival_probs, residual
from tests.reference import random_variables

NUM_BLOCKS = 6
MODELS = {
    "option A": CifarResNet(stage_sizes(14)),
    "option B": CifarResNet(stage_sizes(14), shortcut=projection),
    "wide": flaxarch.create("wrn_16_4").clone(widen_factor=1),
}
FIELDS: dict[str, Any] = {"stage_sizes": stage_sizes(14), "shortcut": zero_pad}
each_model = pytest.mark.parametrize("name", MODELS)


class Filled:
    """A network with random weights and statistics, compiled once."""

    def __init__(self, model: Network):
        self.model = model
        _, self.apply = flaxarch.functional(model)
        self.images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
        self.params, self.batch_stats = random_variables(model)
        self.num_traces = 0
        self.jitted = jax.jit(self._logits)

    def _logits(self, images: jax.Array, gates: jax.Array | None) -> jax.Array:
        self.num_traces += 1
        return self.apply(self.params, self.batch_stats, images, train=False, gates=gates)[0]

    def logits(self, gates: Any = None, images: jax.Array | None = None) -> jax.Array:
        gates = None if gates is None else jnp.asarray(gates, jnp.float32)
        return self.jitted(self.images if images is None else images, gates)


@pytest.fixture(scope="module")
def filled() -> dict[str, Filled]:
    return {name: Filled(model) for name, model in MODELS.items()}


@pytest.mark.parametrize("train", [False, True])
def test_gates_of_one_change_nothing(train: bool):
    # one operation after the other: the same ones in one program may be fused, and rounded, otherwise
    net = Filled(CifarResNet(stage_sizes(8)))
    apply = partial(net.apply, net.params, net.batch_stats, net.images, train=train)
    chex.assert_trees_all_equal(apply(gates=jnp.ones(3)), apply())
    chex.assert_trees_all_equal(apply(gates=jnp.ones((3, 3))), apply())


@each_model
def test_gates_of_one_change_nothing_in_a_compiled_network(name: str, filled: dict[str, Filled]):
    net = filled[name]
    np.testing.assert_allclose(net.logits(np.ones(NUM_BLOCKS)), net.logits(), rtol=1e-5, atol=1e-5)


def without_block(net: Filled, removed: int) -> np.ndarray:
    """Logits of a ResNet whose block number `removed` is not there, put together here from its layers.

    Where the block changes the shape, its shortcut stays.
    """
    variables = {"params": net.params, "batch_stats": net.batch_stats}

    def layer(module: nn.Module, *path: str) -> Any:
        found = {collection: tree for collection, tree in variables.items() if _has(tree, path)}
        bound = {}
        for collection, tree in found.items():
            for key in path:
                tree = tree[key]
            bound[collection] = tree
        return partial(module.apply, bound)

    def conv(features: int, size: int, strides: int, *path: str) -> Any:
        module = nn.Conv(features, (size, size), strides, padding=size // 2, use_bias=False)
        return layer(module, *path)

    def norm(*path: str) -> Any:
        return layer(nn.BatchNorm(use_running_average=True, epsilon=1e-5), *path)

    wide = "bn" in net.params
    x = conv(16, 3, 1, "conv1")(net.images)
    if not wide:
        x = nn.relu(norm("bn1")(x))
    for i in range(NUM_BLOCKS):
        name, features = f"layer{i // 2 + 1}_{i % 2}", 16 * 2 ** (i // 2)
        strides = 2 if i in (2, 4) else 1
        if wide:
            y = nn.relu(norm(name, "bn1")(x))
            x = conv(features, 1, strides, name, "shortcut")(y) if strides > 1 else x
            y = nn.relu(norm(name, "bn2")(conv(features, 3, strides, name, "conv1")(y)))
            y = conv(features, 3, 1, name, "conv2")(y)
            x = x if i == removed else x + y
            continue
        y = nn.relu(norm(name, "bn1")(conv(features, 3, strides, name, "conv1")(x)))
        y = norm(name, "bn2")(conv(features, 3, 1, name, "conv2")(y))
        if strides > 1 and "downsample_conv" in net.params[name]:
            x = norm(name, "downsample_bn")(conv(features, 1, strides, name, "downsample_conv")(x))
        elif strides > 1:
            zeros = jnp.zeros((*x[:, ::2, ::2].shape[:3], features // 4))
            x = jnp.concatenate([zeros, x[:, ::2, ::2], zeros], axis=-1)
        x = nn.relu(x if i == removed else x + y)
    if wide:
        x = nn.relu(norm("bn")(x))
    head = net.params["fc"]
    return np.asarray(x.mean((1, 2)) @ head["kernel"]) + np.asarray(head["bias"])[None]


def _has(tree: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if key not in tree:
            return False
        tree = tree[key]
    return True


@each_model
def test_zero_at_a_block_equals_the_network_without_it(name: str, filled: dict[str, Filled]):
    net = filled[name]
    whole = net.logits()
    np.testing.assert_allclose(whole, without_block(net, removed=-1), rtol=2e-5, atol=1e-4)
    for i in range(NUM_BLOCKS):
        lesioned = net.logits(np.arange(NUM_BLOCKS) != i)
        np.testing.assert_allclose(lesioned, without_block(net, removed=i), rtol=2e-5, atol=1e-4)
        assert not np.allclose(lesioned, whole, rtol=1e-3)


@each_model
def test_gates_per_image_equal_gates_per_block_on_one_image_each(name: str, filled: dict[str, Filled]):
    net = filled[name]
    gates = np.random.default_rng(2).uniform(0, 2, (NUM_BLOCKS, 3))
    together = net.logits(gates)
    for i in range(3):
        alone = net.logits(gates[:, i], images=net.images[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_one_compiled_function_serves_every_lesion():
    net = Filled(CifarResNet(stage_sizes(8)))
    for i in range(3):
        net.logits(np.arange(3) != i)
    assert net.num_traces == 1


def test_gates_have_gradients():
    def first_logit(gates: jax.Array) -> jax.Array:
        return net.apply(net.params, net.batch_stats, net.images, train=False, gates=gates)[0][0, 0]

    with jax.enable_x64(True):  # so that a step is small enough to turn no ReLU
        net = Filled(CifarResNet(stage_sizes(8), dtype=jnp.float64))
        gates, steps = jnp.array([0.5, 1.0, 0.7]), 1e-6 * jnp.eye(3)
        gradient = jax.jit(jax.grad(first_logit))(gates)
        values = jax.jit(jax.vmap(first_logit))
        differences = (values(gates[None] + steps) - values(gates[None] - steps)) / 2e-6
    np.testing.assert_allclose(gradient, differences, rtol=1e-5)


def test_mean_over_bernoulli_gates_of_a_linear_branch_is_the_scaled_branch():
    rng = np.random.default_rng(3)
    x, kernel = jnp.asarray(rng.normal(size=(1, 1, 1, 4))), jnp.asarray(rng.normal(size=(4, 4)))
    p, num_draws = 0.7, 20_000
    gates = jax.random.bernoulli(jax.random.key(0), p, (num_draws,)).astype(x.dtype)
    draws = jax.vmap(lambda gate: residual(x, x @ kernel, gate))(gates)
    expected = residual(x, x @ kernel, jnp.asarray(p))
    deviation = np.abs(np.asarray(x @ kernel)) * np.sqrt(p * (1 - p) / num_draws)
    assert bool((np.abs(draws.mean(axis=0) - expected) < 5 * deviation).all())


@pytest.mark.parametrize("shape", [(), (5,), (7,), (5, 3), (6, 3, 1), (1, 6)])
@each_model
def test_gates_of_another_shape_are_refused_in_one_sentence(
    shape: tuple[int, ...], name: str, filled: dict[str, Filled]
):
    net = filled[name]
    with pytest.raises(
        ValueError, match=r"do not fit this network of 6 residual blocks: give \(6,\)"
    ) as error:
        jax.eval_shape(net._logits, net.images, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert "\n" not in str(error.value)


def test_gates_for_another_number_of_images_are_refused(filled: dict[str, Filled]):
    net = filled["option A"]
    with pytest.raises((ValueError, TypeError)):
        jax.eval_shape(net._logits, net.images, jax.ShapeDtypeStruct((NUM_BLOCKS, 2), jnp.float32))


@pytest.mark.parametrize("fields", [{}, {"survival_prob": 0.5}])
def test_plain_network_refuses_gates_and_stochastic_depth(fields: dict[str, Any]):
    model = flaxarch.create("plain20").clone(**fields)
    gates = None if fields else jnp.ones(9)
    images = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match="a plain network has no residual blocks"):
        jax.eval_shape(partial(model.init, train=False, gates=gates), jax.random.key(0), images)


# Stochastic depth


def test_survival_prob_falls_linearly_as_in_the_paper():
    # Huang et al. 2016, Sec. 3: 54 blocks, p_L = 0.5, so that about 40 are kept, "3L / 4"
    probs = linear_survival_probs(54, 0.5)
    np.testing.assert_allclose(probs[0], 1 - 0.5 / 54, rtol=1e-6)
    np.testing.assert_allclose(probs[-1], 0.5, rtol=1e-6)
    np.testing.assert_allclose(np.diff(probs), -0.5 / 54, rtol=1e-3)
    np.testing.assert_allclose(probs.sum(), 54 * 0.75 - 0.25, rtol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_survival_prob_one_equals_plain_resnet(train: bool, filled: dict[str, Filled]):
    net = filled["option A"]
    _, certain = flaxarch.functional(flaxarch.create("resnet110_sd").clone(**FIELDS, survival_prob=1.0))
    _, plain = flaxarch.functional(flaxarch.create("resnet20").clone(**FIELDS))
    args = (net.params, net.batch_stats, net.images)
    certain = jax.jit(partial(certain, train=train))(*args, key=jax.random.key(0))
    chex.assert_trees_all_equal(certain, jax.jit(partial(plain, train=train))(*args))


@each_model
def test_evaluation_scales_each_block_by_its_chance_to_be_kept(name: str, filled: dict[str, Filled]):
    net = filled[name]
    _, apply = flaxarch.functional(net.model.clone(survival_prob=0.5))
    found, _ = jax.jit(partial(apply, train=False))(net.params, net.batch_stats, net.images)
    expected = net.logits(1 - np.arange(1, NUM_BLOCKS + 1) / NUM_BLOCKS * 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_training_drops_each_block_as_often_as_its_chance_says():
    # Three blocks with p = 5/6, 2/3, 1/2: 8 networks, each known by its logits under the gates that make it.
    net = Filled(CifarResNet(stage_sizes(8)))
    images, num_draws = net.images[:1, :4, :4], 600
    args = (net.params, net.batch_stats, images)
    _, apply = flaxarch.functional(net.model.clone(survival_prob=0.5))
    keys = jax.random.split(jax.random.key(5), num_draws)
    drawn = jax.jit(lambda keys: jax.lax.map(lambda key: apply(*args, train=True, key=key)[0][0], keys))(keys)
    gates = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)], np.float32)
    gated = jax.jit(lambda gates: jax.lax.map(lambda g: net.apply(*args, train=True, gates=g)[0][0], gates))
    distance = np.abs(np.asarray(drawn)[:, None] - np.asarray(gated(gates))[None]).max(axis=-1)
    np.testing.assert_allclose(distance.min(axis=1), 0, atol=1e-4)
    kept = gates[distance.argmin(axis=1)]
    probs = np.array([5 / 6, 2 / 3, 1 / 2])
    assert (np.abs(kept.mean(axis=0) - probs) < 4 * np.sqrt(probs * (1 - probs) / num_draws)).all()
    # and independently of each other
    assert (np.abs(np.corrcoef(kept.T) - np.eye(3)) < 4 / np.sqrt(num_draws)).all()


def test_one_key_drops_the_same_blocks_and_given_gates_replace_the_draw(filled: dict[str, Filled]):
    net = filled["option A"]
    _, apply = flaxarch.functional(net.model.clone(survival_prob=0.5))
    args = (net.params, net.batch_stats, net.images)
    train = jax.jit(lambda key: apply(*args, train=True, key=key)[0])
    chex.assert_trees_all_equal(train(jax.random.key(1)), train(jax.random.key(1)))
    several = {np.asarray(train(jax.random.key(k))).tobytes() for k in range(8)}
    assert len(several) > 1
    given, _ = jax.jit(partial(apply, train=False))(*args, gates=jnp.ones(NUM_BLOCKS))
    np.testing.assert_allclose(given, net.logits(), rtol=1e-5, atol=1e-5)


def test_shortcuts_without_parameters_put_zeros_where_their_papers_do():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 16))
    option_a = zero_pad(x, 32, 2, nn.Conv, nn.BatchNorm)
    chex.assert_trees_all_equal(option_a[..., 8:24], x[:, ::2, ::2])
    assert not option_a[..., :8].any()
    assert not option_a[..., 24:].any()
    pooled = avg_pool_pad(x, 32, 2, nn.Conv, nn.BatchNorm)
    np.testing.assert_allclose(pooled[..., :16], nn.avg_pool(x, (2, 2), (2, 2)), rtol=1e-5, atol=1e-6)
    assert not pooled[..., 16:].any()
