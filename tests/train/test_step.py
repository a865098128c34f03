import math
from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import flaxarch
from flaxarch import ops
from tests.train.tiny_net import TinyNet, random_batch
from train.losses import correct_sum, cross_entropy_sum
from train.step import (
    EVAL_METRICS,
    TRAIN_METRICS,
    TrainState,
    init_state,
    make_eval_step,
    make_train_step,
    normalise,
    views,
)

SGD = optax.sgd(0.1)
MEAN, STD = (0.4,), (0.3,)


class NoisyNet(nn.Module):
    """A residual block and dropout, without convolution or batch norm, which compile slowly."""

    survival_prob: float = 1.0
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images.reshape(len(images), -1)
        y = nn.Dense(x.shape[-1], name="branch")(x)
        if train:
            y = y * jax.random.bernoulli(self.make_rng("gates"), self.survival_prob)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x + y)
        return nn.Dense(10, name="fc")(x)


class TwoExits(nn.Module):
    """A dense layer, and an auxiliary head of the same inputs."""

    aux_weight: float = 0.3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array | tuple[jax.Array, tuple[jax.Array]]:
        x = images.reshape(len(images), -1)
        logits, aux = nn.Dense(10, name="fc")(x), nn.Dense(10, name="aux")(x)
        return (logits, (aux,)) if train else logits


@cache
def new_state(kind: type[nn.Module]) -> TrainState:
    return jax.jit(partial(init_state, kind(), SGD, 0, (8, 8, 1)))()


def one_step(model: nn.Module, **options):
    step = make_train_step(model, SGD, seed=0, mean=MEAN, std=STD, **options)
    return jax.jit(step, static_argnames="axis_name")


def test_label_smoothing_moves_its_share_to_all_classes():
    logits = jnp.array([[2.0, 0.0, -1.0, 0.5]])
    log_probs = np.asarray(jax.nn.log_softmax(logits))[0]
    expected = -(0.9 * log_probs[2] + 0.1 * log_probs.mean())
    loss = cross_entropy_sum(logits, jnp.array([2]), jnp.ones(1), label_smoothing=0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_masked_examples_count_for_nothing():
    logits, labels = jnp.eye(4) * 3, jnp.array([0, 1, 0, 3])
    mask = jnp.array([1.0, 1.0, 1.0, 0.0])
    assert float(correct_sum(logits, labels, mask)) == 2
    whole = cross_entropy_sum(logits[:3], labels[:3], jnp.ones(3))
    np.testing.assert_allclose(cross_entropy_sum(logits, labels, mask), whole, rtol=1e-6)


def test_normalise_takes_black_and_white_to_their_distance_from_the_mean():
    images = jnp.array([0, 255], jnp.uint8).reshape(1, 1, 2, 1) * jnp.ones((1, 1, 1, 2), jnp.uint8)
    expected = [[-0.5 / 0.25, -0.2 / 0.1], [0.5 / 0.25, 0.8 / 0.1]]
    np.testing.assert_allclose(normalise(images, (0.5, 0.2), (0.25, 0.1))[0, 0], expected, rtol=1e-5)


def test_metrics_are_sums_over_the_batch():
    model = TinyNet()
    state, batch = new_state(type(model)), random_batch(0)
    after, metrics = one_step(model)(state, batch)
    assert set(metrics) == set(TRAIN_METRICS)
    assert metrics["count"] == 32
    assert metrics["steps"] == 1
    assert metrics["nonfinite"] == 0
    assert after.step == 1

    @jax.jit
    @jax.value_and_grad
    def loss_and_grads(params):
        images = normalise(batch["image"], mean=MEAN, std=STD)
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    value, grads = loss_and_grads(state.params)
    np.testing.assert_allclose(metrics["loss"], 32 * value, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), after.params, expected)


def test_a_network_without_batch_norm_or_axis_name_trains():
    state, metrics = one_step(NoisyNet())(new_state(NoisyNet), random_batch(0))
    assert state.batch_stats == {}
    assert metrics["nonfinite"] == 0


def test_bfloat16_leaves_parameters_statistics_and_loss_in_float32():
    model = TinyNet(dtype=jnp.bfloat16)
    state, metrics = one_step(model)(new_state(type(model)), random_batch(0))
    leaves = jax.tree.leaves((state.params, state.batch_stats, metrics))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_each_step_draws_its_own_dropout_and_a_repeated_step_the_same():
    model = NoisyNet(dropout_rate=0.5)
    step, state, batch = one_step(model), new_state(type(model)), random_batch(0)
    first, again = step(state, batch), step(state, batch)
    later = step(state._replace(step=jnp.int32(7)), batch)
    assert first[1]["loss"] == again[1]["loss"]
    assert first[1]["loss"] != later[1]["loss"]


def shared_over(devices: int, model: nn.Module, batch):
    """The state after one step over `devices`, each of which gets the same `batch`."""
    step = partial(
        make_train_step(model, SGD, seed=3, batch_norm_devices=1, mean=MEAN, std=STD), axis_name="data"
    )
    batches = jax.tree.map(lambda x: jnp.stack([x] * devices), batch)
    step = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name="data", axis_size=devices)
    return jax.jit(step)(new_state(type(model)), batches)[0]


def test_devices_draw_their_own_dropout_but_one_coin_for_a_block():
    batch = random_batch(0)
    # Equal batches and equal noise: eight devices do what one does. Dropout tells them apart, gates do not.
    for model, equal in [(NoisyNet(survival_prob=0.5), True), (NoisyNet(dropout_rate=0.5), False)]:
        one, eight = shared_over(1, model, batch), shared_over(8, model, batch)
        close = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), one.params, eight.params)
        assert all(jax.tree.leaves(close)) is equal


def test_survival_prob_drops_the_block_in_some_steps():
    model = NoisyNet(survival_prob=0.5)
    step, state, batch = one_step(model), new_state(type(model)), random_batch(0)
    losses = {float(step(state._replace(step=jnp.int32(k)), batch)[1]["loss"]) for k in range(8)}
    assert len(losses) == 2  # kept, dropped


def test_dropped_units_and_blocks_set_in_by_degrees():
    batch, state = random_batch(0), new_state(NoisyNet)
    ramped = one_step(NoisyNet(survival_prob=0.5, dropout_rate=0.5), ramp_steps=10)
    for count, share in ((5, 0.5), (25, 1.0)):
        there = state._replace(step=jnp.int32(count))
        model = NoisyNet(survival_prob=1 - 0.5 * share, dropout_rate=0.5 * share)
        expected, _ = one_step(model)(there, batch)
        chex.assert_trees_all_close(ramped(there, batch)[0], expected, rtol=1e-5, atol=1e-7)


def test_parts_of_a_batch_add_up_to_the_batch_where_there_is_no_batch_norm():
    state, batch = new_state(NoisyNet), random_batch(0)
    batch["mask"][5:9] = 0
    whole, whole_metrics = one_step(NoisyNet())(state, batch)
    for native in (False, True):  # unrolled, and as a loop
        with ops.use_native_forms(native):
            parts, metrics = one_step(NoisyNet(), accumulate=4)(state, batch)
        chex.assert_trees_all_close(parts.params, whole.params, rtol=1e-5, atol=1e-7)
        chex.assert_trees_all_close(metrics, whole_metrics, rtol=1e-5)


def test_batch_statistics_run_from_part_to_part():
    model, batch = TinyNet(), random_batch(0)
    state = new_state(TinyNet)
    after, _ = one_step(model, accumulate=2)(state, batch)
    expected = state
    for i in range(2):
        part = jax.tree.map(lambda x, i=i: x[i::2], batch)
        stats = one_step(model)(expected, part)[0].batch_stats
        expected = expected._replace(batch_stats=stats)
    chex.assert_trees_all_close(after.batch_stats, expected.batch_stats, rtol=1e-5)


@pytest.mark.parametrize("remat", ["stage", "all"])
def test_what_is_computed_anew_changes_nothing(remat: str):
    state, batch = new_state(TinyNet), random_batch(0)
    expected = one_step(TinyNet())(state, batch)
    chex.assert_trees_all_close(
        one_step(TinyNet(), remat=remat)(state, batch), expected, rtol=1e-4, atol=1e-6
    )


def test_sharpness_aware_gradient_is_that_uphill():
    model, batch = NoisyNet(), random_batch(0)
    state = new_state(NoisyNet)
    moved, metrics = one_step(model, sam_radius=0.5)(state, batch)
    plain, plain_metrics = one_step(model)(state, batch)
    gradient = jax.tree.map(lambda x, y: (x - y) / 0.1, state.params, plain.params)  # of SGD at 0.1
    norm = optax.tree.norm(gradient)
    uphill = state._replace(params=jax.tree.map(lambda x, g: x + 0.5 * g / norm, state.params, gradient))
    there, _ = one_step(model)(uphill, batch)
    expected = jax.tree.map(lambda x, y, z: x + (z - y), state.params, uphill.params, there.params)
    chex.assert_trees_all_close(moved.params, expected, rtol=1e-3, atol=1e-5)
    chex.assert_trees_all_close(metrics, plain_metrics, rtol=1e-5)


def test_moving_average_follows_parameters_and_statistics():
    state = new_state(TinyNet)
    state = state._replace(ema={"params": state.params, "batch_stats": state.batch_stats})
    step, expected = one_step(TinyNet(), ema_decay=0.15), state.ema
    for count in range(3):
        state, _ = step(state, random_batch(count))
        decay = min(0.15, (1 + count) / (10 + count))
        new = {"params": state.params, "batch_stats": state.batch_stats}
        expected = jax.tree.map(lambda old, x, d=decay: d * old + (1 - d) * x, expected, new)
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-4, atol=1e-6)


def test_frozen_parameters_have_no_gradient():
    state, batch = new_state(TinyNet), random_batch(0)
    labels = jax.tree.map_with_path(
        lambda path, _: "trained" if path[0].key == "fc" else "frozen", state.params
    )
    moved, metrics = one_step(TinyNet(), labels=labels)(state, batch)
    expected, _ = one_step(TinyNet())(state, batch)
    chex.assert_trees_all_close(moved.params["fc"], expected.params["fc"], rtol=1e-5)
    body = {name: x for name, x in state.params.items() if name != "fc"}
    chex.assert_trees_all_equal({name: moved.params[name] for name in body}, body)
    assert metrics["grad_norm"] > 0


def test_a_step_whose_loss_is_not_finite_says_so():
    model = NoisyNet()
    state = new_state(type(model))
    broken = jax.tree.map(lambda x: x * jnp.nan, state.params)
    _, metrics = one_step(model)(state._replace(params=broken), random_batch(0))
    assert metrics["nonfinite"] == 1


def test_evaluation_counts_unmasked_examples_and_smooths_nothing():
    model = TinyNet()
    state, batch = new_state(type(model)), random_batch(0)
    eval_step = jax.jit(make_eval_step(model, mean=MEAN, std=STD))
    whole = eval_step(state.params, state.batch_stats, batch)
    assert set(whole) == set(EVAL_METRICS)
    batch["mask"][10:] = 0
    part = eval_step(state.params, state.batch_stats, batch)
    first = {name: x[:10] for name, x in batch.items()}
    expected = eval_step(state.params, state.batch_stats, first)
    assert part["count"] == 10
    assert part["correct"] == expected["correct"]
    np.testing.assert_allclose(part["loss"], expected["loss"], rtol=1e-5)


def test_auxiliary_losses_count_with_the_weight_of_the_network():
    model, batch = TwoExits(), random_batch(0)
    state = new_state(TwoExits)
    moved, metrics = one_step(model)(state, batch)

    images = normalise(batch["image"], MEAN, STD)
    outputs: Any = model.apply({"params": state.params}, images, train=True)
    logits, (aux,) = outputs
    sums = [cross_entropy_sum(x, batch["label"], batch["mask"]) for x in (logits, aux)]
    np.testing.assert_allclose(metrics["loss"], sums[0] + 0.3 * sums[1], rtol=1e-5)
    np.testing.assert_allclose(metrics["correct"], correct_sum(logits, batch["label"], batch["mask"]))

    only_main, _ = one_step(TwoExits(aux_weight=0.0))(state, batch)
    np.testing.assert_array_equal(only_main.params["aux"]["kernel"], state.params["aux"]["kernel"])
    assert bool((moved.params["aux"]["kernel"] != state.params["aux"]["kernel"]).any())


def test_tested_logits_are_the_means_over_the_views():
    images, shown = np.random.default_rng(0).normal(size=(2, 5, 4, 3)), []
    for kind, number in ("one", 1), ("flip", 2), ("flip_shift", 6):
        shown = jax.jit(lambda x, kind=kind: [view for _, view in views(x, kind)])(images)
        assert len(shown) == number
        assert math.isclose(sum(weight for weight, _ in views(jnp.asarray(images), kind)), 1)
        np.testing.assert_allclose(shown[0], images, rtol=1e-6)
    _, mirrored, down_right, *_, up_left_mirrored = map(np.asarray, shown)
    np.testing.assert_allclose(mirrored, images[:, :, ::-1], rtol=1e-6)
    np.testing.assert_allclose(down_right[:, 1:, 1:], images[:, :-1, :-1], rtol=1e-6)
    np.testing.assert_allclose(down_right[:, 0, 1:], images[:, 1, :-1], rtol=1e-6)  # reflected
    np.testing.assert_allclose(up_left_mirrored[:, :-1, ::-1][:, :, :-1], images[:, 1:, 1:], rtol=1e-6)

    model, batch = NoisyNet(), random_batch(0)
    params, _ = jax.jit(flaxarch.functional(model).init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    eval_step = jax.jit(make_eval_step(model, mean=MEAN, std=STD, test_views="flip"))

    @jax.jit
    def expected(params):
        pixels = normalise(batch["image"], MEAN, STD)
        both = [
            flaxarch.functional(model).apply(params, {}, x, train=False)[0]
            for x in (pixels, pixels[:, :, ::-1])
        ]
        return -jnp.take_along_axis(
            jax.nn.log_softmax((both[0] + both[1]) / 2), batch["label"][:, None], 1
        ).sum()

    np.testing.assert_allclose(eval_step(params, {}, batch)["loss"], expected(params), rtol=1e-5)
