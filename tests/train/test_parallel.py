from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxarch
from tests.train.tiny_net import TinyNet, random_batch
from train.config import ConfigError
from train.data import ArraySource, eval_batches
from train.parallel import MeshPartitioner, PmapPartitioner, check_batch_size
from train.step import TrainState, init_state, make_eval_step, make_train_step

PARTITIONERS: dict[str, Any] = {
    "pmap": PmapPartitioner,
    "mesh": MeshPartitioner,
    "sharded": partial(MeshPartitioner, shard_params=True),
}
SGD = optax.sgd(0.1, momentum=0.9)
MEAN, STD = (0.4,), (0.3,)
BATCHES = [random_batch(seed) for seed in range(3)]


@cache
def new_state() -> TrainState:
    return jax.device_get(jax.jit(partial(init_state, TinyNet(), SGD, 0, (8, 8, 1)))())


def trained(
    parallel: str, num_devices: int, batch_norm_devices: int | None = None
) -> tuple[TrainState, list[Any]]:
    """State and metrics of three steps."""
    partitioner = PARTITIONERS[parallel](jax.devices()[:num_devices])
    step = make_train_step(TinyNet(), SGD, seed=0, batch_norm_devices=batch_norm_devices, mean=MEAN, std=STD)
    step = partitioner.compile_train(step)
    state, metrics = partitioner.place(new_state()), []
    for batch in BATCHES:
        state, measured = step(state, partitioner.shard_batch(batch))
        metrics.append(measured)
    return jax.device_get((state, metrics))


@pytest.fixture(scope="module")
def on_one_device() -> tuple[TrainState, list[Any]]:
    step = jax.jit(make_train_step(TinyNet(), SGD, seed=0, mean=MEAN, std=STD), static_argnames="axis_name")
    state, metrics = new_state(), []
    for batch in BATCHES:
        state, measured = step(state, batch)
        metrics.append(measured)
    return jax.device_get((state, metrics))


def assert_close(tree: Any, expected: Any) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6), tree, expected)


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize("parallel", PARTITIONERS)
def test_three_steps_on_devices_equal_three_steps_on_one(
    parallel: str, num_devices: int, on_one_device: tuple[TrainState, list[Any]]
):
    assert_close(trained(parallel, num_devices), on_one_device)


def test_three_steps_under_vmap_equal_three_steps_on_one(on_one_device: tuple[TrainState, list[Any]]):
    step = partial(make_train_step(TinyNet(), SGD, seed=0, mean=MEAN, std=STD), axis_name="data")
    step = jax.jit(jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name="data"))
    state, metrics = new_state(), []
    for batch in BATCHES:
        state, measured = step(state, jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch))
        metrics.append(measured)
    assert_close((state, metrics), on_one_device)


@pytest.mark.slow
def test_resnet20_takes_the_same_steps_on_any_devices_in_float64():
    # In float32 rounding moves a ReLU's zero now and then, and such a step is not that of another device.
    with jax.enable_x64(True):
        model = flaxarch.create("resnet20", dtype=jnp.float64)
        step = make_train_step(model, SGD, seed=0, mean=MEAN, std=STD)
        state = jax.device_get(jax.jit(partial(init_state, model, SGD, 0, (8, 8, 1)))())
        state = jax.tree.map(lambda x: x if x.dtype == np.int32 else x.astype(np.float64), state)
        found = []
        for parallel, num_devices in (("pmap", 1), ("pmap", 8), ("mesh", 8)):
            partitioner = PARTITIONERS[parallel](jax.devices()[:num_devices])
            compiled, on_devices = partitioner.compile_train(step), partitioner.place(state)
            for batch in BATCHES:
                on_devices, _ = compiled(on_devices, partitioner.shard_batch(batch))
            found.append(jax.device_get(on_devices))
    for other in found[1:]:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11), other, found[0])


def test_per_device_batch_norm_differs_and_averages_the_statistics_of_the_devices(
    on_one_device: tuple[TrainState, list[Any]],
):
    apart, _ = trained("pmap", 8, batch_norm_devices=1)
    together, _ = on_one_device
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), apart.params, together.params)
    assert max(jax.tree.leaves(differences)) > 1e-4

    partitioner = PARTITIONERS["pmap"]()
    step = make_train_step(TinyNet(), SGD, seed=0, batch_norm_devices=1, mean=MEAN, std=STD)
    state, _ = partitioner.compile_train(step)(
        partitioner.place(new_state()), partitioner.shard_batch(BATCHES[0])
    )
    alone = jax.jit(make_train_step(TinyNet(), SGD, seed=0, mean=MEAN, std=STD), static_argnames="axis_name")
    shares = [{name: x[4 * i : 4 * i + 4] for name, x in BATCHES[0].items()} for i in range(8)]
    stats = [alone(new_state(), share)[0].batch_stats for share in shares]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *stats)
    assert_close(jax.device_get(state.batch_stats), mean)


def test_groups_of_devices_take_their_batch_statistics_together():
    model, batch = flaxarch.create("resnet20").clone(stage_sizes=(1,), widths=(8,)), BATCHES[0]
    images = (8, 8, 1)
    state = jax.device_get(jax.jit(partial(init_state, model, SGD, 0, images))())
    partitioner = PmapPartitioner(jax.devices()[:4])
    step = make_train_step(model, SGD, seed=0, batch_norm_devices=2, mean=MEAN, std=STD)
    found, _ = partitioner.compile_train(step)(partitioner.place(state), partitioner.shard_batch(batch))

    alone = jax.jit(make_train_step(model, SGD, seed=0, mean=MEAN, std=STD), static_argnames="axis_name")
    halves = [alone(state, {name: x[16 * i : 16 * i + 16] for name, x in batch.items()})[0] for i in range(2)]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *halves)
    assert_close(jax.device_get(found.batch_stats), mean.batch_stats)
    assert_close(jax.device_get(found.params), mean.params)  # of SGD's first step, linear in the gradient


@pytest.mark.parametrize("parallel", PARTITIONERS)
def test_every_step_donates_its_state(parallel: str):
    partitioner = PARTITIONERS[parallel]()
    step = partitioner.compile_train(make_train_step(TinyNet(), SGD, seed=0, mean=MEAN, std=STD))
    state = partitioner.place(new_state())
    for batch in BATCHES:
        before = state
        state, _ = step(state, partitioner.shard_batch(batch))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
        shardings = {leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state)}
        assert shardings == ({True, False} if parallel == "sharded" else {True})


@pytest.mark.parametrize("batch_size", [24, 64])
@pytest.mark.parametrize("parallel", PARTITIONERS)
def test_evaluation_counts_every_example_once(parallel: str, batch_size: int):
    images = random_batch(5, 45)
    source = ArraySource(images["image"], images["label"], tuple("0123456789"))
    state = new_state()
    eval_step = make_eval_step(TinyNet(), mean=MEAN, std=STD)
    whole = jax.jit(eval_step, static_argnames="axis_name")(state.params, state.batch_stats, images)

    partitioner = PARTITIONERS[parallel]()
    eval_step = partitioner.compile_eval(eval_step)
    state = partitioner.place(state)
    sums = {name: jnp.float32(0) for name in whole}
    for batch in eval_batches(source, batch_size=batch_size):
        sums = jax.tree.map(
            jnp.add, sums, eval_step(state.params, state.batch_stats, partitioner.shard_batch(batch))
        )
    assert sums["count"] == 45
    assert sums["correct"] == whole["correct"]
    assert float(sums["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-5)


def test_batch_that_devices_cannot_share_is_refused_with_the_nearest_sizes():
    check_batch_size(64, 8)
    with pytest.raises(ConfigError, match=r"batch_size 100 does not give 8 devices .* such as 96 or 104"):
        check_batch_size(100, 8)
    with pytest.raises(ConfigError, match=r"such as 8$"):
        check_batch_size(3, 8)
