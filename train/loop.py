"""A run from its configuration to its test accuracy: build, restore; then update, log, evaluate, save."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from train.build import Run, build
from train.checkpoint import Checkpoints, Snapshot, steps_in
from train.config import Config
from train.data import DataError, Dataset, Source, eval_batches, train_batches
from train.diagnose import first_nonfinite
from train.display import Display
from train.examples import in_words, left_out, measured_by, sampling
from train.export import write_weights
from train.guard import Stop, Stopped, sole_run
from train.metrics import MetricsFile, Row, Stopwatch, Trace, await_row, step_flops, utilisation
from train.recipes import RECIPES
from train.step import (
    EVAL_METRICS,
    TRAIN_METRICS,
    Metrics,
    TrainState,
)
from train.workdir import WorkdirError, claim_workdir


class TrainingError(RuntimeError):
    """A run that cannot go on. The message is one sentence."""


class NonFiniteError(TrainingError):
    """Loss or gradient is not finite. `step` is the first such step that is known of."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} is not finite at step {step}")
        self.step = step


def train(config: Config, console: Console | None = None, data: Dataset | None = None) -> float:
    """Trains as `config` says, or continues the run in its folder; returns the final test accuracy in [0, 1].

    Where there is a moving average, the accuracy is its; without test images it is that of validation.
    `data`, as train.data.from_sequence makes it, is trained on in place of what `config.data` names.

    Raises:
        ConfigError: the configuration does not fit itself, the devices, the data, the network or the folder.
        DataError: the data cannot be read.
        TrainingError: loss or gradient is no longer finite, the folder cannot be written to, or data can no
            longer be read that were there at the start.
        Stopped: SIGTERM ended the run after a step; it is saved.
        CheckpointError: the run has checkpoints, and none can be read.
    """
    try:
        return _train(config, build(config, data), console)
    except WorkdirError as error:
        steps = steps_in(config.run_dir / "last")
        kept = f"the newest checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint yet"
        raise TrainingError(
            f"{error}; {kept}, and once it can be written to, the same command continues this run"
        ) from error


def _train(config: Config, run: Run, console: Console | None) -> float:
    main = jax.process_index() == 0
    claim_workdir(config, write=main)
    console = console or Console(quiet=not main)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    with ExitStack() as stack:
        if main:
            stack.enter_context(sole_run(config.run_dir))
        stop = stack.enter_context(Stop().listening())
        checkpoints = Checkpoints(config.run_dir, run.partitioner, config.keep_best)
        stack.enter_context(closing(checkpoints))
        snapshot = _restore(run, checkpoints, say)
        start = int(snapshot.state.step)
        say(_headline(config, run, start))
        if start >= run.total_steps and not snapshot.untested:
            return _report(config, run, snapshot, say)
        path, events = config.run_dir / "metrics.jsonl", config.run_dir / "tensorboard"
        rows = MetricsFile(
            path if main else None, start, events if config.tensorboard else None, untested=snapshot.untested
        )
        stack.enter_context(closing(rows))
        try:
            with Display(console, start, run.total_steps, run.steps_per_epoch) as display:
                snapshot = _run_steps(config, run, snapshot, checkpoints, rows, display, stop)
        except NonFiniteError as error:
            checkpoints.wait()
            where = _first_nonfinite(config, run, checkpoints, error.step, say)
            raise TrainingError(
                f"{error}{where}; the run's checkpoints are of steps before, "
                "and a lower learning_rate may help (in another workdir)"
            ) from error
        except DataError as error:
            raise TrainingError(f"{error}; the same command continues this run") from error
    return _report(config, run, snapshot, say)


def _run_steps(
    config: Config,
    run: Run,
    snapshot: Snapshot,
    checkpoints: Checkpoints,
    rows: MetricsFile,
    display: Display,
    stop: Stop,
) -> Snapshot:
    """Updates, rows of metrics, evaluations and checkpoints from the snapshot's step to the last one."""
    state, sums, accuracy, best_accuracy, earlier_seconds, skipped, untested = snapshot
    start = int(state.step)
    stopwatch, flops = Stopwatch(config.batch_size), 0.0
    began = time.perf_counter() - earlier_seconds
    first_traced = start + 10
    trace = Trace(config.run_dir / "profile", range(first_traced, first_traced + config.profile))
    saved, written = start, {}
    evaluated_on, evaluation_source = measured_by(run.data)

    def write(row: Row) -> None:
        nonlocal written
        written = row
        rows.write(row)

    def current(step: int, untested: bool) -> Snapshot:
        _to_host(sums, step, config.skip_nonfinite - skipped)  # a state that is not finite is not kept
        seconds = time.perf_counter() - began
        return Snapshot(state, sums, accuracy, best_accuracy, seconds, skipped, untested)

    def save(step: int, untested: bool = False) -> Snapshot:
        snapshot = current(step, untested)
        rows.sync()
        checkpoints.save(snapshot)
        return snapshot

    def save_before_end(step: int, untested: bool = False) -> None:
        """Saves what is not saved when the data can no longer be read: a file has vanished, say."""
        if saved == step:
            return
        if jax.process_count() == 1:
            save(step, untested)
        # Process 0 writes a step's rows ahead of the next step.
        elif await_row(config.run_dir / "metrics.jsonl", written):
            checkpoints.save_alone(current(step, untested))

    def evaluate(step: int) -> None:
        nonlocal accuracy, best_accuracy
        try:
            row = _evaluate("eval", evaluation_source, config, run, state, time.perf_counter() - began)
            if evaluated_on != "test":
                row["of"] = evaluated_on
            accuracy = row.get("ema_accuracy", row["accuracy"])
            write(row)
            display.eval_row(row)
            best_accuracy = max(best_accuracy, accuracy)
            checkpoints.save_best(state, accuracy)
            if step == run.total_steps and evaluated_on != "test" and len(run.data.test):
                row = _evaluate("test", run.data.test, config, run, state, time.perf_counter() - began)
                accuracy = row.get("ema_accuracy", row["accuracy"])
                write(row)
                display.eval_row(row)
        except DataError:
            save_before_end(step, untested=True)
            raise

    if untested:
        evaluate(start)
        if start == run.total_steps:
            return save(start)

    with closing(trace), closing(_train_batches(config, run, start)) as batches:
        for step in range(start + 1, run.total_steps + 1):
            try:
                batch = stopwatch.next_of(batches)
            except DataError:
                save_before_end(step - 1)
                raise
            if step == start + 1 and rows.is_open:
                flops = step_flops(run.pure_step, state, batch, run.teacher)
            trace.before(step)
            state, metrics = run.train_step(state, run.partitioner.shard_batch(batch))
            sums = _add(sums, metrics)
            stopwatch.step()
            display.advance(step)
            if step == start + 1:
                jax.block_until_ready(sums)  # compiled by now; the stopwatch starts below

            ends_epoch = step % run.steps_per_epoch == 0 or step == run.total_steps
            if ends_epoch or step % config.log_every == 0:
                measured = _to_host(sums, step, config.skip_nonfinite - skipped)
                stopwatch.stop()
                row = _row("train", step, run, measured, time.perf_counter() - began)
                row["grad_norm"] = measured["grad_norm"] / max(1, measured["steps"])
                row["learning_rate"] = float(jnp.asarray(run.schedule(step - 1)))
                row |= stopwatch.lap()
                if flops:  # counted, that is
                    row["flops"] = flops * step
                if flops and (share := utilisation(flops, row["step_seconds"])) is not None:
                    row["mfu"] = share
                if measured["nonfinite"]:
                    row["skipped"] = int(measured["nonfinite"])
                    skipped += row["skipped"]
                write(row)
                display.train_row(row)
                sums = _zeros(run, TRAIN_METRICS)
                checkpoints.check()

            if step == run.total_steps or step % (config.eval_every * run.steps_per_epoch) == 0:
                evaluate(step)

            is_last = stop.after_step()
            save_every = config.save_every or run.steps_per_epoch
            if is_last or step == run.total_steps or step % save_every == 0:
                snapshot, saved = save(step), step
            if is_last and step < run.total_steps:
                raise Stopped(f"stopped after step {step} of {run.total_steps}")
            stopwatch.start()
    return snapshot


def _first_nonfinite(
    config: Config, run: Run, checkpoints: Checkpoints, step: int, say: Callable[[str], None]
) -> str:
    """ ", first in the output of ...": found by repeating the steps from the last checkpoint to `step`."""
    state = _restore(run, checkpoints, say).state
    start = int(state.step)
    say(f"looking for the layer: steps {start + 1} to {step} are repeated")
    with closing(_train_batches(config, run, start)) as batches:
        for _ in range(start + 1, step):
            state, _ = run.train_step(state, run.partitioner.shard_batch(next(batches)))
        batch = next(batches)
    state = jax.device_get(state)
    return f", first in {first_nonfinite(run.model, state, batch, run.normalise, config.seed, run.mix)}"


def _restore(run: Run, checkpoints: Checkpoints, say: Callable[[str], None]) -> Snapshot:
    """Where the run stands: at its newest readable checkpoint or at the beginning."""
    sums = _zeros(run, TRAIN_METRICS)
    restored = checkpoints.restore_latest(jax.eval_shape(run.new_state), sums)
    if restored is None:
        state = run.partitioner.place(run.new_state())
        return Snapshot(state, sums, accuracy=-1.0, best_accuracy=-1.0, seconds=0.0)
    snapshot, remarks = restored
    for remark in remarks:
        say(remark)
    return snapshot


def _train_batches(config: Config, run: Run, start_step: int) -> Any:
    return train_batches(
        run.data.train,
        batch_size=config.batch_size,
        seed=config.seed,
        augment=run.augmenter,
        sampling=sampling(config),
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.workers,
    )


def _evaluate(kind: str, source: Source, config: Config, run: Run, state: TrainState, seconds: float) -> Row:
    """A row on all examples of `source`, for the parameters and for their moving average if there is one."""
    step = int(state.step)
    row = _row(kind, step, run, _measure(source, config, run, state.params, state.batch_stats, step), seconds)
    if state.ema is not None:
        measured = _measure(source, config, run, **state.ema, step=step)
        row["ema_loss"] = measured["loss"] / measured["count"]
        row["ema_accuracy"] = measured["correct"] / measured["count"]
    return row


def _measure(
    source: Source, config: Config, run: Run, params: Any, batch_stats: Any, step: int
) -> dict[str, float]:
    """EVAL_METRICS over all examples of `source`, each counted once."""
    sums = _zeros(run, EVAL_METRICS)
    batches = eval_batches(
        source,
        batch_size=config.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with closing(batches):
        for batch in batches:
            sums = _add(sums, run.eval_step(params, batch_stats, run.partitioner.shard_batch(batch)))
    return _to_host(sums, step)


@jax.jit
def _add(sums: Metrics, metrics: Metrics) -> Metrics:
    return jax.tree.map(jnp.add, sums, metrics)


def _zeros(run: Run, names: tuple[str, ...]) -> Metrics:
    return run.partitioner.replicate({name: jnp.float32(0) for name in names})


def _to_host(sums: Metrics, step: int, num_skipped: int = 0) -> dict[str, float]:
    """Sums up to `step` as Python's floats.

    NonFiniteError where they are not finite, or where more than `num_skipped` of the steps were left out
    because they were not.
    """
    measured = {name: float(value) for name, value in jax.device_get(sums).items()}
    nonfinite = int(measured.get("nonfinite", 0))
    if all(map(math.isfinite, measured.values())) and nonfinite <= num_skipped:
        return measured
    if "nonfinite" not in measured:
        raise NonFiniteError("the test loss", step)
    # Without skipping, parameters never recover, so that the bad steps are the latest.
    raise NonFiniteError("loss or gradient", step - max(1, nonfinite) + 1)


def _row(kind: str, step: int, run: Run, measured: dict[str, float], seconds: float) -> Row:
    return {
        "kind": kind,
        "step": step,
        "epoch": round(step / run.steps_per_epoch, 4),
        "loss": measured["loss"] / max(1, measured["count"]),  # nats per image
        "accuracy": measured["correct"] / max(1, measured["count"]),
        "seconds": round(seconds, 3),  # of the run so far, earlier sessions included
    }


def _headline(config: Config, run: Run, start: int) -> str:
    lines = [
        f"{config.model} on {config.data}: {in_words(run.data)}, {run.data.train.num_classes} classes, "
        f"{run.partitioner.num_devices} {jax.default_backend()} device(s)",
        *left_out(run.data),
    ]
    if config.recipe is not None:
        recipe = RECIPES[config.recipe]
        parts = (recipe.source, recipe.published, recipe.differs and f"here: {recipe.differs}")
        lines.append(f"recipe {config.recipe}: {'; '.join(filter(None, parts))}")
    lines += run.remarks if not start else ()
    if start >= run.total_steps:
        lines.append(f"this run is finished: {start} of {run.total_steps} steps are done")
    elif start:
        lines.append(f"continuing after step {start} of {run.total_steps}")
    return "\n".join(lines)


def _report(config: Config, run: Run, snapshot: Snapshot, say: Callable[[str], None]) -> float:
    during = measured_by(run.data)[0]
    end, best = ("test", f" {during} accuracy") if len(run.data.test) and during != "test" else (during, "")
    say(f"{end} accuracy {100 * snapshot.accuracy:.2f} %, best{best} {100 * snapshot.best_accuracy:.2f} %")
    say(f"checkpoints   {config.run_dir / 'last'} and {config.run_dir / 'best'}")
    say(f"metrics       {config.run_dir / 'metrics.jsonl'}")
    if jax.process_index() == 0:
        say(f"weights       {write_weights(config, run)}")
    return snapshot.accuracy
