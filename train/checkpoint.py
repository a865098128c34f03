"""Checkpoints by Orbax: in `last/` what the run continues from, in `best/` the network that tested best.

Two folders, because one that keeps the best N may throw away the newest. A checkpoint is complete or absent:
Orbax writes it under another name and renames it at the end.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.parallel import Partitioner
from train.step import Metrics, TrainState


class CheckpointError(RuntimeError):
    """Checkpoints that cannot be continued from. The message is one sentence."""


class Snapshot(NamedTuple):
    """Where a run stands: what its next step and its next row of metrics depend on."""

    state: TrainState
    sums: Metrics  # of the steps since the last row
    accuracy: float  # of the last evaluation, in [0, 1]; -1 before the first
    best_accuracy: float  # of all evaluations so far; likewise
    seconds: float  # spent so far
    skipped: int = 0  # updates left out so far, because they were not finite


class Checkpoints:
    """`last/` and `best/` in a run's folder. Writing goes on behind training; `close` waits for it."""

    def __init__(self, run_dir: Path, partitioner: Partitioner) -> None:
        self._run_dir = run_dir
        self._partitioner = partitioner
        self._last = _manager(run_dir / "last", max_to_keep=2)
        self._best = _manager(run_dir / "best", max_to_keep=1)

    def save(self, snapshot: Snapshot) -> None:
        """Adds to `last/`, once what is on its way to `best/` has arrived: its accuracy counts as reached."""
        state = self._partitioner.to_global(snapshot.state)
        training = {"opt_state": state.opt_state, "sums": self._partitioner.to_global(snapshot.sums)}
        self._best.wait_until_finished()
        self._last.save(
            int(snapshot.state.step),
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(_variables(state)),
                training=ocp.args.StandardSave(training),
                progress=ocp.args.JsonSave(
                    {
                        "accuracy": snapshot.accuracy,
                        "best_accuracy": snapshot.best_accuracy,
                        "seconds": snapshot.seconds,
                        "skipped": snapshot.skipped,
                    }
                ),
            ),
        )

    def save_best(self, state: TrainState, accuracy: float) -> None:
        """Replaces what is in `best/`, unless a run that was killed later has put this step there already."""
        self._last.wait_until_finished()  # of several processes, Orbax cannot write two checkpoints at once
        self._best.save(
            int(state.step),
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(_variables(self._partitioner.to_global(state))),
                progress=ocp.args.JsonSave({"accuracy": accuracy}),
            ),
        )

    def restore_latest(self, state: TrainState, sums: Metrics) -> tuple[Snapshot, list[str]] | None:
        """The newest readable snapshot and a sentence on each newer one; None where there is no checkpoint.

        Those that are unreadable are moved out of `last/`, to `unreadable/`.

        Args:
            state: the shapes and types of a state, as jax.eval_shape gives them.
            sums: likewise.

        Raises:
            CheckpointError: there are checkpoints, but none can be read.
        """
        failures: dict[int, str] = {}
        for step in sorted(self._last.all_steps(), reverse=True):
            try:
                snapshot = self._restore(step, state, sums)
            except Exception as error:  # damage shows itself as a dozen types, from JSON's to TensorStore's
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
        self._last.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is written."""
        self._last.close()
        self._best.close()

    def _restore(self, step: int, state: TrainState, sums: Metrics) -> Snapshot:
        def here(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            sharding = self._partitioner.checkpoint_sharding(shape)
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

        variables, training = jax.tree.map(
            here, (_variables(state), {"opt_state": state.opt_state, "sums": sums})
        )
        hook = sys.unraisablehook
        sys.unraisablehook = _without_stragglers(hook)  # and so it stays where `restore` raises
        found = self._last.restore(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardRestore(variables),
                training=ocp.args.StandardRestore(training),
                progress=ocp.args.JsonRestore(),
            ),
        )
        sys.unraisablehook = hook
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


def load_variables(folder: Path) -> dict[str, Any]:
    """`step`, `params` and `batch_stats` of the newest checkpoint in a `last/` or `best/`, as NumPy arrays.

    A run with a moving average has `ema` too, with `params` and `batch_stats` in it.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
    """
    steps = [int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal()]
    if not steps:
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    path: Any = (
        folder.resolve() / str(max(steps)) / "variables"
    )  # Orbax wants its own kind of path, takes any
    handler = ocp.PyTreeCheckpointHandler()
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
    return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def _without_stragglers(hook: Callable[[Any], object]) -> Callable[[Any], None]:
    """`hook` without the reads that are still under way when one of a checkpoint's reads fails.

    They report, some time later, to an event loop that Orbax has closed by then.
    """

    def filtered(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return filtered


def _variables(state: TrainState) -> dict[str, Any]:
    variables = {"step": state.step, "params": state.params, "batch_stats": state.batch_stats}
    return variables if state.ema is None else variables | {"ema": state.ema}


def _manager(folder: Path, max_to_keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(folder, options=options)
