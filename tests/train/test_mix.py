"""Mixup and cutmix, alone and inside steps on any devices."""

from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from tests.train.tiny_net import TinyNet, random_batch
from train.config import Config, ConfigError
from train.losses import binary_cross_entropy_sum
from train.mix import Mix, make_mix, mix_batch, mix_weights
from train.parallel import MeshPartitioner, PmapPartitioner
from train.step import TrainState, init_state, make_train_step, step_keys

MIXUP, CUTMIX = Mix(10, mixup_alpha=0.8), Mix(10, cutmix_alpha=1.0)
BOTH = Mix(10, mixup_alpha=0.8, cutmix_alpha=1.0)
SGD = optax.sgd(0.1)


@cache
def weights_of(mix: Mix, number: int = 400, size: int = 8) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), number)
    return np.asarray(jax.jit(jax.vmap(lambda key: mix_weights(mix, key, size, size)))(keys))


def test_mixup_gives_all_pixels_one_weight_from_a_beta_distribution():
    weights = weights_of(MIXUP)
    assert (weights == weights[:, :1, :1]).all()
    shares = weights[:, 0, 0]
    assert shares.mean() == pytest.approx(0.5, abs=0.08)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.2)  # of Beta(a, a): 1 / (4 (2a + 1))


def test_cutmix_takes_one_rectangle_of_the_partner():
    weights = weights_of(CUTMIX)
    assert set(np.unique(weights)) == {0.0, 1.0}
    for inside in weights == 0:
        rows, columns = inside.any(axis=1), inside.any(axis=0)
        np.testing.assert_array_equal(inside, np.outer(rows, columns))
        assert np.abs(np.diff(rows.astype(int))).sum() <= 2
    # The area is uniform for alpha 1, less what is rounded down and what sticks out.
    areas = (weights == 0).mean(axis=(1, 2))
    assert 0.2 < areas.mean() < 0.5
    assert areas.max() == 1 or areas.max() > 0.7


def test_probability_and_share_tell_how_often():
    weights = weights_of(BOTH._replace(probability=0.6, cutmix_share=0.25))
    unmixed = (weights == 1).all(axis=(1, 2))
    flat = (weights == weights[:, :1, :1]).all(axis=(1, 2)) & ~unmixed
    assert flat.mean() == pytest.approx(0.6 * 0.75, abs=0.1)
    assert unmixed.mean() == pytest.approx(0.4, abs=0.15)  # and the rectangles of no pixel


def test_partners_are_mixed_with_one_another_and_labels_as_images_are():
    batch = random_batch(0)
    for mix in (MIXUP, CUTMIX):
        key = jax.random.key(5)
        mixed, weights = mix_batch(mix, batch, key), mix_weights(mix, key, 8, 8)
        share = float(weights.mean())
        assert 0 < share < 1
        for i, partner in ((0, 1), (1, 0), (30, 31), (31, 30)):
            own, other = (batch["image"][k, :, :, 0].astype(float) for k in (i, partner))
            expected = weights * own + (1 - weights) * other
            np.testing.assert_allclose(mixed["image"][i, :, :, 0], expected, rtol=1e-5)
            target = np.zeros(10)
            target[batch["label"][i]] += share
            target[batch["label"][partner]] += 1 - share
            np.testing.assert_allclose(mixed["label"][i], target, atol=1e-6)
        np.testing.assert_allclose(mixed["label"].sum(axis=1), 1, rtol=1e-6)
        # The mean of pixels and that of targets stay what they were.
        np.testing.assert_allclose(mixed["label"].mean(axis=0), np.bincount(batch["label"]) / 32, atol=1e-6)
        np.testing.assert_allclose(mixed["image"].mean(), batch["image"].mean(), rtol=1e-5)


def test_without_mixing_images_and_labels_stay():
    batch = random_batch(0)
    mixed = mix_batch(BOTH._replace(probability=0.0), batch, jax.random.key(0))
    np.testing.assert_array_equal(mixed["image"], batch["image"])
    np.testing.assert_array_equal(mixed["label"].argmax(axis=1), batch["label"])


@cache
def new_state(kind: type[nn.Module]) -> TrainState:
    return jax.device_get(jax.jit(partial(init_state, kind(), SGD, 0, (8, 8, 1)))())


def steps(partitioner: Any, **options: Any) -> Any:
    """State and metrics of three steps; without a partitioner on one device."""
    train_step = make_train_step(
        TinyNet(), SGD, seed=0, mean=(0.4,), std=(0.3,), mix=BOTH, loss=binary_cross_entropy_sum, **options
    )
    state = new_state(TinyNet)
    compiled = partitioner.compile_train(train_step) if partitioner else jax.jit(train_step)
    state, metrics = partitioner.place(state) if partitioner else state, []
    for seed in range(3):
        batch = random_batch(seed)
        state, measured = compiled(state, partitioner.shard_batch(batch) if partitioner else batch)
        metrics.append(measured)
    return jax.device_get((state, metrics))


@pytest.fixture(scope="module")
def on_one_device() -> Any:
    return steps(None)


@pytest.mark.parametrize("partitioner", [PmapPartitioner, MeshPartitioner])
def test_mixed_steps_on_eight_devices_equal_those_on_one(partitioner: Any, on_one_device: Any):
    chex.assert_trees_all_close(steps(partitioner()), on_one_device, rtol=1e-4, atol=1e-5)


class Linear(nn.Module):
    """Without batch norm, parts of a batch are independent."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        return nn.Dense(10, name="fc")(images.reshape(len(images), -1))


def test_batch_is_mixed_by_the_key_of_the_step_and_then_falls_into_parts():
    params = {"fc": {"kernel": np.random.default_rng(0).normal(0, 0.1, (64, 10)), "bias": np.zeros(10)}}
    params = jax.tree.map(lambda x: x.astype(np.float32), params)
    state, batch = TrainState(jnp.int32(7), params, {}, SGD.init(params)), random_batch(0)
    mixed = mix_batch(BOTH, batch, step_keys(0, jnp.int32(7))[2])

    def after(batch: Any, **options: Any) -> Any:
        step = make_train_step(Linear(), SGD, seed=0, mean=(0.4,), std=(0.3,), **options)
        return jax.jit(step)(state, batch)

    expected = after(mixed)
    chex.assert_trees_all_close(after(batch, mix=BOTH), expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(after(batch, mix=BOTH, accumulate=2), expected, rtol=1e-4, atol=1e-6)


def test_devices_need_even_shares():
    assert make_mix(Config(batch_size=30), 10, 2) is None
    assert make_mix(Config(batch_size=32, mixup_alpha=0.2), 10, 8) == Mix(10, mixup_alpha=0.2)
    with pytest.raises(ConfigError, match=r"batch_size 24 does not give 8 devices even .* multiple of 16"):
        make_mix(Config(batch_size=24, cutmix_alpha=1.0), 10, 8)
