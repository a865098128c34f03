import gc
import shutil
import time
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.tiny_net import full_disk
from train.checkpoint import CheckpointError, Checkpoints, Snapshot, load_best, load_variables, steps_in
from train.parallel import MeshPartitioner, Partitioner, PmapPartitioner
from train.step import TRAIN_METRICS, TrainState
from train.workdir import WorkdirError

KINDS = ["pmap", "mesh", "sharded"]
SHARDED = partial(MeshPartitioner, shard_params=True)
TX = optax.sgd(0.1, momentum=0.9)


def snapshot(step: int, partitioner: Partitioner) -> Snapshot:
    rng = np.random.default_rng(step)
    params = {"conv": {"kernel": rng.normal(size=(3, 3, 4, 8)).astype(np.float32)}}
    stats = {"bn": {"mean": rng.normal(size=8).astype(np.float32)}}
    state = TrainState(jnp.int32(step), params, stats, TX.init(params))
    sums = {name: jnp.float32(step / 3) for name in TRAIN_METRICS}
    state, sums = partitioner.place((state, sums))
    return Snapshot(state, sums, accuracy=0.5, best_accuracy=0.75, seconds=step / 7)


def shapes() -> tuple[TrainState, dict[str, Any]]:
    like = snapshot(0, MeshPartitioner(jax.devices()[:1]))
    return jax.eval_shape(lambda: (like.state, like.sums))


def save(run_dir: Path, *steps: int) -> None:
    partitioner = MeshPartitioner()
    checkpoints = Checkpoints(run_dir, partitioner)
    for step in steps:
        checkpoints.save(snapshot(step, partitioner))
    checkpoints.close()


def restore(run_dir: Path, partitioner: Partitioner | None = None) -> tuple[Snapshot, list[str]] | None:
    checkpoints = Checkpoints(run_dir, partitioner or MeshPartitioner())
    try:
        return checkpoints.restore_latest(*shapes())
    finally:
        checkpoints.close()


def assert_equal(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize(
    "parallel", [PmapPartitioner, MeshPartitioner, SHARDED], ids=["pmap", "mesh", "sharded"]
)
def test_restored_snapshot_equals_the_saved_one_on_any_devices(
    tmp_path: Path, parallel: Any, num_devices: int
):
    save(tmp_path, 10, 20)
    partitioner = parallel(jax.devices()[:num_devices])
    restored = restore(tmp_path, partitioner)
    assert restored is not None
    found, remarks = restored
    assert remarks == []
    assert_equal(found, snapshot(20, partitioner))
    assert all(len(leaf.devices()) == num_devices for leaf in jax.tree.leaves(found.state))


def test_a_folder_without_checkpoints_restores_nothing(tmp_path: Path):
    assert restore(tmp_path) is None


def test_last_keeps_two_and_best_keeps_one(tmp_path: Path):
    partitioner = MeshPartitioner()
    checkpoints = Checkpoints(tmp_path, partitioner)
    for step in (10, 20, 30):
        checkpoints.save_best(snapshot(step, partitioner).state, accuracy=step / 100)
        checkpoints.save(snapshot(step, partitioner))
    checkpoints.save(snapshot(40, partitioner))
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["30", "40"]
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["30"]


def save_tested(run_dir: Path, keep_best: int, **accuracies: float) -> None:
    """As a run does whose evaluations, after these steps, give these accuracies."""
    partitioner = MeshPartitioner()
    checkpoints = Checkpoints(run_dir, partitioner, keep_best)
    for step, accuracy in accuracies.items():
        checkpoints.save_best(snapshot(int(step[1:]), partitioner).state, accuracy)
    checkpoints.close()


def test_best_keeps_the_most_accurate_and_of_equals_the_earlier(tmp_path: Path):
    save_tested(tmp_path, 2, _1=0.3, _2=0.5, _3=0.5, _4=0.4, _5=0.6, _6=0.5)
    assert steps_in(tmp_path / "best") == [2, 5]
    best = load_best(tmp_path)
    assert best is not None
    assert (best.step, best.accuracy) == (5, 0.6)
    save_tested(tmp_path, 2, _7=0.55)  # in a new process
    assert steps_in(tmp_path / "best") == [5, 7]
    best = load_best(tmp_path)
    assert best is not None
    assert_equal(best.variables["params"], snapshot(5, MeshPartitioner()).state.params)


def test_run_that_repeats_steps_after_a_kill_ends_with_the_same_best(tmp_path: Path):
    accuracies = {"_1": 0.3, "_2": 0.5, "_3": 0.2, "_4": 0.6, "_5": 0.4}
    save_tested(tmp_path / "unbroken", 2, **accuracies)
    save_tested(tmp_path / "killed", 2, **dict(list(accuracies.items())[:4]))
    save_tested(tmp_path / "killed", 2, **accuracies)
    assert steps_in(tmp_path / "killed" / "best") == steps_in(tmp_path / "unbroken" / "best") == [2, 4]


def test_what_a_kill_has_left_of_removed_networks_goes_at_the_next_start(tmp_path: Path):
    save_tested(tmp_path, 3, _1=0.3, _2=0.5, _3=0.4)
    shutil.rmtree(tmp_path / "best" / "3" / "progress")  # half removed
    save_tested(tmp_path, 1)
    assert steps_in(tmp_path / "best") == [2]


def save_and_wait(checkpoints: Checkpoints, found: Snapshot) -> None:
    checkpoints.save(found)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        checkpoints.check()


def test_write_that_fails_is_told_by_the_next_call_and_spoils_no_checkpoint(tmp_path: Path):
    partitioner = MeshPartitioner()
    checkpoints = Checkpoints(tmp_path, partitioner)
    checkpoints.save(snapshot(10, partitioner))
    checkpoints.wait()
    with full_disk(2000), pytest.raises(WorkdirError, match=f"to {tmp_path}: File too large"):
        save_and_wait(checkpoints, snapshot(20, partitioner))
    restored = restore(tmp_path)
    assert restored is not None
    assert_equal(restored[0], snapshot(10, partitioner))
    with suppress(WorkdirError):  # what could not be written may still be on its way out
        checkpoints.close()
    save(tmp_path, 20)
    assert steps_in(tmp_path / "last") == [10, 20]


def test_best_of_a_killed_run_stays_when_the_step_is_repeated(tmp_path: Path):
    partitioner = MeshPartitioner()
    for _ in range(2):
        checkpoints = Checkpoints(tmp_path, partitioner)
        checkpoints.save_best(snapshot(10, partitioner).state, accuracy=0.5)
        checkpoints.close()
    assert_equal(load_variables(tmp_path / "best")["params"], snapshot(10, partitioner).state.params)


def test_what_is_saved_is_the_state_of_that_step_though_it_is_donated_next(tmp_path: Path):
    partitioner = MeshPartitioner()
    checkpoints = Checkpoints(tmp_path, partitioner)
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    current = snapshot(10, partitioner)
    checkpoints.save(current)
    state = current.state
    for _ in range(20):
        state = advance(state)
    checkpoints.close()
    restored = restore(tmp_path)
    assert restored is not None
    assert_equal(restored[0].state, snapshot(10, partitioner).state)


def break_off(path: Path) -> None:
    data = max(path.rglob("d/*"), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[:20])


def lose_metadata(path: Path) -> None:
    (path / "training" / "_METADATA").write_text("{")


def lose_progress(path: Path) -> None:
    shutil.rmtree(path / "progress")


@pytest.mark.parametrize("damage", [break_off, lose_metadata, lose_progress])
def test_damaged_newest_checkpoint_falls_back_to_the_one_before_and_can_be_written_again(
    tmp_path: Path, damage
):
    save(tmp_path, 10, 20)
    damage(tmp_path / "last" / "20")
    restored = restore(tmp_path)
    assert restored is not None
    found, remarks = restored
    assert_equal(found, snapshot(10, MeshPartitioner()))
    assert len(remarks) == 1
    assert remarks[0].startswith("checkpoint 20 cannot be read")
    assert (tmp_path / "unreadable" / "20").is_dir()

    save(tmp_path, 20)
    again = restore(tmp_path)
    assert again is not None
    assert_equal(again[0], snapshot(20, MeshPartitioner()))


def test_nothing_is_said_of_reads_that_were_dropped_when_one_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def read() -> None:
        pass

    def failing(*_: Any) -> Snapshot:
        error: Any = ValueError("damaged")
        error.dropped = error, read()  # which goes when Python looks for cycles
        raise error

    save(tmp_path, 10)
    monkeypatch.setattr(Checkpoints, "_restore", failing)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        with pytest.raises(CheckpointError, match="of 10: damaged"):
            restore(tmp_path)
        gc.collect()
    assert not said


def test_checkpoint_that_was_being_written_does_not_count(tmp_path: Path):
    save(tmp_path, 10)
    shutil.copytree(tmp_path / "last" / "10", tmp_path / "last" / "20.orbax-checkpoint-tmp")
    restored = restore(tmp_path)
    assert restored is not None
    assert restored[0].state.step == 10
    save(tmp_path, 20)
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["10", "20"]


def test_checkpoints_none_of_which_can_be_read_are_an_error_and_stay(tmp_path: Path):
    save(tmp_path, 10, 20)
    for step in ("10", "20"):
        break_off(tmp_path / "last" / step)
    with pytest.raises(CheckpointError, match=r"none of the checkpoints in .* can be read; of 20: "):
        restore(tmp_path)
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["10", "20"]


def test_variables_load_as_numpy_without_a_template(tmp_path: Path):
    save(tmp_path, 10, 20)
    variables = load_variables(tmp_path / "last")
    expected = snapshot(20, MeshPartitioner()).state
    assert variables["step"] == 20
    assert_equal(variables["params"], expected.params)
    assert_equal(variables["batch_stats"], expected.batch_stats)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables["params"]))
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_variables(tmp_path / "best")
