"""Checkpoints by Orbax: in `last/` what the run continues from, in `best/` the networks that tested best.

Two folders, because one that keeps the best N may throw away the newest. A checkpoint is complete or absent:
Orbax writes it under another name and renames it at the end.
"""

import gc
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from flaxarch.loops import unstack_blocks
from train.alone import (
    CheckpointError,
    newest_alone,
    read_alone,
    remove_alone,
    remove_half_written,
    write_alone,
)
from train.parallel import Partitioner
from train.step import Metrics, TrainState
from train.workdir import WorkdirError, reason_of


class Snapshot(NamedTuple):
    """Where a run stands: what its next step and its next row of metrics depend on."""

    state: TrainState
    sums: Metrics  # of the steps since the last row
    accuracy: float  # of the last evaluation, in [0, 1]; -1 before the first
    best_accuracy: float  # of all evaluations so far; likewise
    seconds: float  # spent so far
    skipped: int = 0  # updates left out so far, because they were not finite
    untested: bool = False  # the evaluation of this step is yet to be made, for its images could not be read


class Best(NamedTuple):
    """The network in `best/` that tested best."""

    step: int
    accuracy: float  # in [0, 1], of the moving average where there is one
    variables: dict[str, Any]  # as `load_variables` gives them


class Checkpoints:
    """`last/` and `best/` in a run's folder. Writing goes on behind training; `close` waits for it.

    In `best/` are the `keep_best` most accurate of all evaluations, of equals the earlier ones; where a run
    was killed and repeats steps, they may be ahead of it. One of them goes only after a better one is whole.

    A write that fails raises WorkdirError, in whichever call comes to know of it.
    """

    def __init__(self, run_dir: Path, partitioner: Partitioner, keep_best: int = 1) -> None:
        self._run_dir = run_dir
        self._partitioner = partitioner
        self._hook = sys.unraisablehook
        sys.unraisablehook = _without_stragglers(self._hook)
        with _explained(run_dir):
            self._ranking = _Ranking(_accuracies(run_dir / "best"), keep_best)
            _remove(run_dir / "best", self._ranking.drop_surplus())
            remove_half_written(run_dir)
            self._last = _manager(run_dir / "last", max_to_keep=2)
            self._best = _manager(run_dir / "best", preservation_policy=self._ranking)

    def save(self, snapshot: Snapshot) -> None:
        """Adds to `last/`, once what is on its way to `best/` has arrived: its accuracy counts as reached.

        An untested snapshot of this step is replaced.
        """
        step = int(snapshot.state.step)
        snapshot = snapshot._replace(
            state=self._partitioner.to_global(snapshot.state), sums=self._partitioner.to_global(snapshot.sums)
        )
        with _explained(self._run_dir):
            self._best.wait_until_finished()
            if step in self._last.all_steps():
                self._last.delete(step)
            self._last.save(step, args=_items(snapshot))

    def save_alone(self, snapshot: Snapshot) -> None:
        """As `save`, by one of several processes while the others wait for it in vain; see train/alone.py.

        Saves nothing where this process has not the whole state.
        """
        self.wait()  # for what all write together: the others' threads go on with it
        step, progress = int(snapshot.state.step), _progress(snapshot)
        with _explained(self._run_dir):
            write_alone(self._run_dir, step, (snapshot.state, snapshot.sums), progress)

    def save_best(self, state: TrainState, accuracy: float) -> None:
        """Adds to `best/` what is among the best, unless a run that was killed later has done so already."""
        step = int(state.step)
        if step in self._ranking.accuracies or not self._ranking.takes(accuracy):
            return
        self._ranking.accuracies[step] = accuracy
        with _explained(self._run_dir):
            # Of several processes, Orbax cannot write two checkpoints at once.
            self._last.wait_until_finished()
            self._best.save(
                step,
                args=ocp.args.Composite(
                    variables=ocp.args.StandardSave(_variables(self._partitioner.to_global(state))),
                    progress=ocp.args.JsonSave({"accuracy": accuracy}),
                ),
                force=True,  # though there may be later steps
            )

    def check(self) -> None:
        """Raises WorkdirError where a write has failed since; does not wait for one that is under way."""
        with _explained(self._run_dir):
            for manager in (self._last, self._best):
                if not manager.is_saving_in_progress():
                    manager.wait_until_finished()

    def restore_latest(self, state: TrainState, sums: Metrics) -> tuple[Snapshot, list[str]] | None:
        """The newest readable snapshot and a sentence on each newer one; None where there is no checkpoint.

        Those that are unreadable are moved out of `last/`, to `unreadable/`.

        Args:
            state: the shapes and types of a state, as jax.eval_shape gives them.
            sums: likewise.

        Raises:
            CheckpointError: there are checkpoints, but none can be read; or what one process saved cannot.
        """
        failures: dict[int, str] = {}
        alone = newest_alone(self._run_dir)
        if alone is not None and alone > max(self._last.all_steps(), default=-1):
            found, progress = read_alone(self._run_dir, alone, (state, sums))
            return Snapshot(*self._partitioner.place(found), **progress), []
        for step in sorted(self._last.all_steps(), reverse=True):
            with _without_dropped_reads():
                try:
                    snapshot = self._restore(step, state, sums)
                except Exception as error:  # damage shows itself as a dozen types: JSON's, TensorStore's
                    failures[step] = (str(error).strip() or repr(error)).splitlines()[0]
                    continue
            for broken in failures:
                self._set_aside(broken)
            return snapshot, [
                f"checkpoint {broken} cannot be read ({reason}) and was moved to "
                f"{self._run_dir / 'unreadable'}; the run continues from checkpoint {step}"
                for broken, reason in failures.items()
            ]
        if failures:
            step, reason = next(iter(failures.items()))
            raise CheckpointError(
                f"none of the checkpoints in {self._run_dir / 'last'} can be read; of {step}: {reason}"
            )
        return None

    def wait(self) -> None:
        """Returns when everything is written that was to be."""
        with _explained(self._run_dir):
            self._last.wait_until_finished()
            self._best.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is written."""
        with _explained(self._run_dir):
            self._last.close()
            self._best.close()
            if jax.process_index() == 0 and (steps := steps_in(self._run_dir / "last")):
                remove_alone(self._run_dir, steps[-1])
        sys.unraisablehook = self._hook  # unless something failed above

    def _restore(self, step: int, state: TrainState, sums: Metrics) -> Snapshot:
        def here(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            sharding = self._partitioner.checkpoint_sharding(shape)
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

        variables, training = jax.tree.map(
            here, (_variables(state), {"opt_state": state.opt_state, "sums": sums})
        )
        found = self._last.restore(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardRestore(variables),
                training=ocp.args.StandardRestore(training),
                progress=ocp.args.JsonRestore(),
            ),
        )
        variables, training = self._partitioner.from_global((found["variables"], found["training"]))
        restored = TrainState(opt_state=training["opt_state"], **variables)
        return Snapshot(restored, training["sums"], **found["progress"])

    def _set_aside(self, step: int) -> None:
        aside = self._run_dir / "unreadable" / str(step)
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            (self._run_dir / "last" / str(step)).rename(aside)
        self._last.reload()


def steps_in(folder: Path) -> list[int]:
    """The steps of the checkpoints in a `last/` or `best/`, in their order; none where there is no folder."""
    return sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal())


def load_variables(folder: Path, step: int | None = None, item: str = "variables") -> dict[str, Any]:
    """`step`, `params` and `batch_stats` of a checkpoint in a `last/` or `best/`, as NumPy arrays.

    A run with a moving average has `ema` too, with `params` and `batch_stats` in it. `step` None is the
    newest. In `last/` there is another `item`, "training": `opt_state` and `sums`. What a run with `scan` has
    stacked comes in the ordinary form.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
    """
    steps = steps_in(folder)
    if not steps:
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    name = str(steps[-1] if step is None else step)
    path: Any = folder.resolve() / name / item  # Orbax wants its own kind of path, takes any
    handler = ocp.PyTreeCheckpointHandler()
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
    return unstack_blocks(handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy)))


def load_best(run_dir: Path) -> Best | None:
    """The best network of a run; None where none was tested yet."""
    ranking = _Ranking(_accuracies(run_dir / "best"), 1)
    if not ranking.accuracies:
        return None
    step = ranking.steps[0]
    return Best(step, ranking.accuracies[step], load_variables(run_dir / "best", step))


class _Ranking:
    """Which steps stay in `best/`; Orbax asks it, with each save, which to remove after it."""

    def __init__(self, accuracies: dict[int, float], number: int) -> None:
        self.accuracies = accuracies  # by step
        self._number = number

    @property
    def steps(self) -> list[int]:
        """Best first, of equals the earlier."""
        return sorted(self.accuracies, key=lambda step: (-self.accuracies[step], step))

    def takes(self, accuracy: float) -> bool:
        """Whether a step of this accuracy, later than the others, would stay."""
        worst = [self.accuracies[step] for step in self.steps[self._number - 1 : self._number]]
        return not worst or accuracy > worst[0]

    def drop_surplus(self) -> list[int]:
        """Forgets the steps that are not to stay: a kill ahead of their removal left them, whole or not."""
        surplus = self.steps[self._number :]
        for step in surplus:
            del self.accuracies[step]
        return surplus

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> list[bool]:
        """See Orbax's PreservationPolicy."""
        kept = self.steps[: self._number]
        return [checkpoint.step in kept for checkpoint in checkpoints]


def _accuracies(folder: Path) -> dict[int, float]:
    """Of the steps in `best/`; -1 of one that was half removed when the run was killed."""
    found = {}
    for step in steps_in(folder):
        try:
            found[step] = float(
                json.loads((folder / str(step) / "progress" / "metadata").read_text())["accuracy"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            found[step] = -1.0
    return found


def _remove(folder: Path, steps: Sequence[int]) -> None:
    """Removes checkpoints, before a manager of the folder has seen them."""
    if jax.process_index() == 0:
        for step in steps:
            shutil.rmtree(folder / str(step), ignore_errors=True)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("surplus checkpoints are removed")


@contextmanager
def _explained(run_dir: Path) -> Iterator[None]:
    """Within this, what Orbax and TensorStore raise, of a dozen types, becomes WorkdirError."""
    try:
        yield
    except Exception as error:
        raise WorkdirError(f"no checkpoint can be written to {run_dir}: {reason_of(error)}") from error


def _without_stragglers(hook: Callable[[Any], object]) -> Callable[[Any], None]:
    """`hook` without the reads and writes that are still under way when one of a checkpoint's fails.

    They report, some time later, to an event loop that Orbax has closed by then.
    """

    def filtered(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return filtered


@contextmanager
def _without_dropped_reads() -> Iterator[None]:
    """Within this, nothing is said of the reads that Orbax had yet to begin when one failed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield
        gc.collect()  # which is when Python speaks of them


def _items(snapshot: Snapshot) -> ocp.args.Composite:
    """What a checkpoint in `last/` consists of."""
    training = {"opt_state": snapshot.state.opt_state, "sums": snapshot.sums}
    return ocp.args.Composite(
        variables=ocp.args.StandardSave(_variables(snapshot.state)),
        training=ocp.args.StandardSave(training),
        progress=ocp.args.JsonSave(_progress(snapshot)),
    )


def _progress(snapshot: Snapshot) -> dict[str, Any]:
    return {name: x for name, x in snapshot._asdict().items() if name not in ("state", "sums")}


def _variables(state: TrainState) -> dict[str, Any]:
    variables = {"step": state.step, "params": state.params, "batch_stats": state.batch_stats}
    return variables if state.ema is None else variables | {"ema": state.ema}


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Never: the trainer itself asks JAX, and a second one who does, with other numbers, confuses it."""
        return False


def _manager(folder: Path, **kept: Any) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        **kept, enable_async_checkpointing=True, cleanup_tmp_directories=True
    )
    return _Manager(folder, options=options)
