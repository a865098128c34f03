"""Early exits: networks with them, what leaving by them costs, and when to leave."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import flaxarch
from flaxarch import depth
from flaxarch.depth import with_exits
from flaxarch.layers import Network
from tests.depth.nets import (
    SHAPE,
    VECTORS,
    DenseBlock,
    random_batch,
    random_variables,
    tiny_preact,
    tiny_resnet,
)
from train.losses import cross_entropy_sum
from train.step import init_state, make_train_step

_create: Any = flaxarch.create


class Blocks(Network):
    """Three residual blocks on vectors (N, 1, 1, 8): compiled in no time."""

    head = "fc"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        del train
        x = images
        for i in range(3):
            x = DenseBlock(name=f"block{i}")(x, None if gates is None else gates[i].reshape(-1, 1, 1, 1))
        return nn.Dense(self.num_classes, name="fc")(x[:, 0, 0])


NETWORK = Blocks(num_classes=10)
MODEL = with_exits(NETWORK, ("block0", "block1"))


@pytest.fixture(scope="module")
def variables() -> Any:
    return random_variables(MODEL, VECTORS)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return random_batch(5, VECTORS)[0]


@pytest.fixture(scope="module")
def logits(variables: Any, images: jax.Array) -> jax.Array:
    return depth.exit_logits(MODEL, variables, images, batch_size=2)  # which does not divide 5 images


# Networks with exits


def test_exits_are_dense_layers_on_what_the_blocks_leave(variables: Any, images: Any, logits: Any):
    @jax.jit
    def by_hand(params: Any) -> Any:
        inner, chain = {"params": params["network"]}, depth.Chain(NETWORK, VECTORS)
        _, *states, _ = chain.states(inner, images)
        layers = (params[name]["fc"] for name in ("exit1", "exit2"))
        exits = [x[:, 0, 0] @ fc["kernel"] + fc["bias"][None] for x, fc in zip(states, layers, strict=True)]
        whole: Any = NETWORK.apply(inner, images, train=False)
        return jnp.stack([*exits, whole])

    @jax.jit
    def last(gates: jax.Array) -> Any:
        return MODEL.apply(variables, images, train=False, gates=gates)

    expected = by_hand(variables["params"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last(jnp.ones(3)), expected[-1], rtol=1e-4, atol=1e-5)
    assert not np.allclose(last(jnp.zeros(3)), expected[-1], rtol=1e-2)


def test_network_with_exits_is_one_with_auxiliary_heads():
    network = tiny_resnet(14, num_classes=7)
    model = with_exits(network, depth.stage_ends(network, SHAPE), normed=True)
    assert (model.num_classes, model.dtype) == (7, jnp.float32)
    assert model.after == ("layer1_1", "layer2_1")
    images = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)
    params, batch_stats = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    for path in (model.head, *model.aux_heads):
        tree = params
        for name in path.split("/"):
            tree = tree[name]
        assert tree["kernel"].shape[-1] == 7
    assert set(batch_stats) == {"network", "exit1", "exit2"}
    names = [f"network/{block.name}" for block in depth.blocks(network, SHAPE)]
    assert [block.name for block in depth.blocks(model, SHAPE)] == names
    other = model.clone(num_classes=4, dtype=jnp.bfloat16, axis_name="devices")
    assert (other.network.num_classes, other.network.dtype) == (4, jnp.bfloat16)
    assert other.network.axis_name == "devices"
    assert with_exits(tiny_preact(scan=True), ("layer2_1",)).network.scan is False  # pyright: ignore


def test_trainer_weighs_the_loss_of_each_exit(images: Any):
    model, labels = with_exits(NETWORK, MODEL.after, normed=True, exit_weight=0.5), jnp.arange(5)
    batch = {"image": images * 20 + 100, "label": labels, "mask": np.ones(5, np.float32)}
    tx = optax.sgd(0.1)
    state = init_state(model, tx, 0, VECTORS, random_variables(model, VECTORS))
    step = make_train_step(model, tx, seed=0, mean=(0.0,) * 8, std=(1.0,) * 8)

    @jax.jit
    def both(state: Any) -> Any:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        outputs, _ = model.apply(variables, batch["image"] / 255, train=True, mutable=["batch_stats"])
        last, exits = outputs  # pyright: ignore[reportGeneralTypeIssues]
        return [cross_entropy_sum(x, labels, batch["mask"]) for x in (last, *exits)], step(state, batch)

    losses, (new, metrics) = both(state)
    assert len(losses) == 3
    np.testing.assert_allclose(metrics["loss"], np.dot([1, 0.5, 0.5], losses), rtol=1e-5)
    for k in ("exit1", "exit2"):
        moved = jax.tree.map(lambda x, y: np.any(x != np.asarray(y)), state.params[k], new.params[k])
        assert all(jax.tree.leaves(moved))
        assert np.any(np.asarray(new.batch_stats[k]["bn"]["mean"]) != state.batch_stats[k]["bn"]["mean"])


def test_what_cannot_be_left_early_is_refused_in_one_sentence(images: Any):
    with pytest.raises(ValueError, match="this GoogLeNet has auxiliary heads, which are its exits"):
        with_exits(_create("googlenet"), ("inception4a",))
    with pytest.raises(ValueError, match="Blocks calls no module 'block7' to exit behind"):
        jax.eval_shape(
            lambda x: with_exits(NETWORK, ("block7",)).init(jax.random.key(0), x, train=False), images
        )
    backwards = with_exits(NETWORK, ("block1", "block0"))
    with pytest.raises(ValueError, match=r"order of execution, which is \('block0', 'block1'\), not"):
        jax.eval_shape(lambda x: backwards.init(jax.random.key(0), x, train=False), images)
    with pytest.raises(ValueError, match="this Blocks has no exits: `with_exits` gives it some"):
        depth.exit_logits(NETWORK, {}, images)
    with pytest.raises(ValueError, match="Blocks is of one stage"):
        depth.stage_ends(NETWORK, VECTORS)


# What leaving costs


def test_image_that_leaves_has_cost_the_network_up_to_there_and_all_exits_so_far():
    dense = 8 * 8  # two in a block; an exit has 8 * 10
    assert depth.exit_macs(MODEL, VECTORS).tolist() == [2 * dense + 80, 4 * dense + 160, 6 * dense + 240]


# 4x4 pixels, a 1x1 convolution of 128, and dense layers of 1024 and 1000
GOOGLENET = [4 * 4 * c * 128 + 4 * 4 * 128 * 1024 + 1024 * 1000 for c in (512, 528)]
# 5x5 pixels of a mean, a 1x1 of 128, a 5x5 of 768 that leaves one pixel, and the dense layer
INCEPTION_V3 = [5 * 5 * 768 * 128 + 5 * 5 * 128 * 768 + 768 * 1000]


def test_last_exit_costs_as_much_more_as_the_auxiliary_heads():
    found = depth.exit_macs(_create("googlenet"), (224, 224, 3))
    assert found[-1] == flaxarch.published("googlenet").macs + sum(GOOGLENET)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "heads", "modules"),
    [
        ("googlenet", GOOGLENET, ("inception4a", "inception4d")),
        ("inception_v3", INCEPTION_V3, ("Mixed_6e",)),
    ],
)
def test_exit_costs_the_modules_up_to_it(name: str, heads: list[int], modules: tuple[str, ...]):
    model, row = _create(name), flaxarch.published(name)
    found = depth.exit_macs(model, row.input_shape)
    parts = flaxarch.cost(model, row.input_shape).by_module()
    names = [name for name in parts if not name.startswith(("aux", "Aux"))]
    for k, module in enumerate(modules):
        before = names[: names.index(module) + 1]
        assert found[k] == sum(parts[name].macs for name in before) + sum(heads[: k + 1])
    assert found[-1] == row.macs + sum(heads)


# When to leave


def test_entropy_is_in_nats():
    assert float(depth.entropy(jnp.zeros(10))) == pytest.approx(np.log(10))
    assert float(depth.entropy(jnp.array([100.0, 0, 0]))) == pytest.approx(0, abs=1e-6)
    x = jnp.array([1.0, 2.0, 4.0])
    assert float(depth.entropy(x + 50)) == pytest.approx(float(depth.entropy(x)), rel=1e-4)


Validation = tuple[np.ndarray, np.ndarray]
MACS = np.array([10, 25, 60, 100])


@pytest.fixture(scope="module")
def validation() -> Validation:
    """Logits of four exits, each better than the one before, for 30 images, two of which are the same."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 30)
    logits = rng.normal(size=(4, 30, 3)) + np.arange(1, 5)[:, None, None] * np.eye(3)[labels]
    logits[:, 7], labels[7] = logits[:, 3], labels[3]
    return logits.astype(np.float32), labels


def result(logits: Any, labels: Any, threshold: Any) -> tuple[float, float]:
    """Accuracy and mean cost, image by image."""
    exits = depth.leave(logits, threshold)
    right = [logits[k, i].argmax() == labels[i] for i, k in enumerate(exits)]
    return float(np.mean(right)), float(MACS[exits].mean())


def test_tradeoff_has_every_threshold_that_changes_anything(validation: Validation):
    found = depth.tradeoff(*validation, MACS)
    for i, threshold in enumerate(found.threshold):
        end = np.append(found.threshold, np.inf)[i + 1]
        for t in (threshold, np.nextafter(np.float32(end), np.float32(-np.inf))):
            np.testing.assert_allclose(result(*validation, t), (found.accuracy[i], found.mean_macs[i]))
    assert found.threshold[0] == -np.inf
    assert found.mean_macs[0] == MACS[-1]
    assert found.mean_macs[-1] == MACS[0]
    assert (np.diff(found.mean_macs) <= 0).all()
    assert 30 < len(found.threshold) < 91


def test_chosen_threshold_is_the_best_of_all(validation: Validation):
    found = depth.tradeoff(*validation, MACS)
    for wanted in (0.6, 0.8, 0.9, float(found.accuracy.max())):
        threshold = depth.choose_threshold(*validation, MACS, accuracy=wanted)
        accuracy, cost = result(*validation, threshold)
        assert accuracy >= wanted
        assert cost == pytest.approx(found.mean_macs[found.accuracy >= wanted].min())
    for wanted in (10, 30, 50, 100):
        threshold = depth.choose_threshold(*validation, MACS, mean_macs=wanted)
        accuracy, cost = result(*validation, threshold)
        assert cost <= wanted
        assert accuracy == pytest.approx(found.accuracy[found.mean_macs <= wanted].max())


def test_thresholds_of_their_own_hold_for_each_exit(validation: Validation):
    for k in range(4):
        thresholds = np.full(3, -np.inf)
        thresholds[k:] = np.inf
        assert (depth.leave(validation[0], thresholds) == k).all()


def test_wants_that_cannot_be_met_are_one_sentence(validation: Validation):
    for wants, sentence in (
        ({"accuracy": 1.1}, "no threshold reaches an accuracy of 1.1: the best of these images is"),
        ({"mean_macs": 9}, "no image costs less than the first exit's 10 MACs, and 9 are wanted"),
        ({}, "for an accuracy or for a mean cost: give one of the two"),
        ({"accuracy": 0.5, "mean_macs": 50}, "give one of the two"),
    ):
        with pytest.raises(ValueError, match=sentence):
            depth.choose_threshold(*validation, MACS, **wants)
    with pytest.raises(ValueError, match="of 4 exits all but the last have a threshold: give one or 3"):
        depth.leave(validation[0], np.ones(4))
    with pytest.raises(ValueError, match=r"labels \(N,\) and macs \(num_exits,\), not"):
        depth.tradeoff(*validation, MACS[:3])


# Work that is skipped


def forced(k: int, num_exits: int) -> np.ndarray:
    """Thresholds with which all images leave by exit k."""
    return np.where(np.arange(num_exits - 1) < k, -np.inf, np.inf)


def test_predictor_has_the_logits_of_the_exit_that_it_leaves_by(variables: Any, images: Any, logits: Any):
    predict = depth.anytime_predictor(MODEL, variables, VECTORS)
    for k in range(3):
        found = predict(images[1], forced(k, 3))
        assert found.exit == k
        np.testing.assert_allclose(found.logits, logits[k, 1], rtol=1e-4, atol=1e-5)
    threshold = float(np.median(depth.entropy(logits[:-1])))
    exits = [predict(image, threshold).exit for image in images]
    assert exits == depth.leave(logits, threshold).tolist()
    assert len(set(exits)) > 1
    with pytest.raises(ValueError, match=r"an image is \(1, 1, 8\), not \(5, 1, 1, 8\)"):
        predict(images, 0.5)


def test_nothing_behind_the_exit_is_touched(variables: Any, images: Any):
    mine = jax.tree.map(jnp.array, variables)
    predict = depth.anytime_predictor(MODEL, mine, VECTORS)
    for name in ("block1", "block2", "fc"):
        jax.tree.map(lambda x: x.delete(), mine["params"]["network"][name])
    assert np.isfinite(predict(images[0], np.inf).logits).all()
    with pytest.raises(RuntimeError, match="deleted"):
        predict(images[0], -np.inf)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        pytest.param(_create("googlenet", num_classes=10), (64, 64, 3), id="auxiliary heads"),
        pytest.param(with_exits(tiny_resnet(14), ("layer1_1", "layer2_0")), SHAPE, id="post-activation"),
        pytest.param(
            with_exits(tiny_preact(scan=True), ("layer1_1", "layer2_1"), normed=True),
            SHAPE,
            id="pre-activation",
        ),
        pytest.param(
            with_exits(
                _create("vgg16_bn_cifar").clone(widths=(4, 6, 6, 8, 8)), ("bn2_2", "bn3_3"), normed=True
            ),
            (32, 32, 3),
            id="plain",
        ),
    ],
)
def test_parts_one_after_the_other_are_the_network(model: Any, shape: Any):
    variables, (images, _) = random_variables(model, shape), random_batch(2, shape)
    predict, logits = (
        depth.anytime_predictor(model, variables, shape),
        depth.exit_logits(model, variables, images),
    )
    for k in range(3):
        found = predict(images[1], forced(k, 3))
        assert found.exit == k
        scale = np.abs(logits[k]).max()
        np.testing.assert_allclose(found.logits / scale, logits[k, 1] / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_image_that_leaves_early_takes_less_time():
    network = _create("resnet56")
    model, shape = with_exits(network, depth.stage_ends(network, (32, 32, 3))), (32, 32, 3)
    variables, (images, _) = random_variables(model, shape), random_batch(1, shape)
    predict = depth.anytime_predictor(model, variables, shape)
    medians = []
    for k in range(3):
        predict(images[0], forced(k, 3)).logits.block_until_ready()
        seconds = []
        for _ in range(30):
            start = time.perf_counter()
            predict(images[0], forced(k, 3)).logits.block_until_ready()
            seconds.append(time.perf_counter() - start)
        medians.append(float(np.median(seconds)))
    macs = depth.exit_macs(model, shape)
    print(f"seconds per image {medians}, MACs {macs.tolist()}")
    assert medians[0] < 0.7 * medians[2]
    assert medians[1] < 0.95 * medians[2]
