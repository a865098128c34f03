"""Runs that are stopped, started twice, or meet numbers that are not finite."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from rich.console import Console

from tests.train import tiny_net
from train import loop
from train.build import Run, build
from train.checkpoint import load_variables
from train.config import Config, ConfigError
from train.diagnose import first_nonfinite
from train.display import Display
from train.guard import Stop, Stopped, sole_run, stoppable
from train.metrics import read_rows
from train.step import TrainState, init_state, make_train_step

CONFIG = Config(steps=12, log_every=5, save_every=4, batch_size=64)
SGD = optax.sgd(0.1)


def quietly(config: Config) -> str:
    """Runs with the tiny network; what was said."""
    screen = StringIO()
    with mock.patch("flaxarch.create", tiny_net.create):
        loop.train(config, Console(file=screen, width=200))
    return screen.getvalue()


def sigterm_at(step: int) -> Any:
    """Within this, SIGTERM arrives in `step`."""
    advance = Display.advance

    def interrupt(display: Display, current: int) -> None:
        if current == step:
            os.kill(os.getpid(), signal.SIGTERM)
        advance(display, current)

    return mock.patch.object(Display, "advance", interrupt)


def test_sigterm_saves_at_that_step_and_the_run_continues_to_the_same_end(tmp_path: Path):
    quietly(dataclasses.replace(CONFIG, workdir=tmp_path / "unbroken"))
    config = dataclasses.replace(CONFIG, workdir=tmp_path / "stopped")
    handler = signal.getsignal(signal.SIGTERM)
    with sigterm_at(6), pytest.raises(Stopped, match="stopped after step 6 of 12"):
        quietly(config)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert "6" in os.listdir(tmp_path / "stopped" / "last")
    assert "continuing after step 6 of 12" in quietly(config)
    found, expected = (load_variables(tmp_path / name / "last") for name in ("stopped", "unbroken"))
    chex.assert_trees_all_equal(found, expected)


def test_folder_is_one_runs_at_a_time(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    second = pytest.raises(ConfigError, match="in use by another process")
    with sole_run(tmp_path), second, sole_run(tmp_path):
        pass
    with sole_run(tmp_path):  # the first is over
        pass


def test_sigterm_ahead_of_the_run_ends_it_at_once():
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=r"^stopped$"), stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_processes_count_their_steps_from_the_start_of_the_session_on():
    asked: list[int] = []
    with (
        mock.patch("jax.process_count", return_value=2),
        mock.patch("train.guard.multihost_utils.reached_preemption_sync_point", asked.append),
        Stop().listening() as stop,
    ):
        for _ in range(3):
            stop.after_step()
    assert asked == [1, 2, 3]


class Fragile(nn.Module):
    """Divides by zero where an image has a white pixel."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dense(8, name="first")(images.reshape(len(images), -1))
        x = Ratio(name="ratio")(x, jnp.float32(images.max() < 255))
        return nn.Dense(10, name="fc")(x)


class Ratio(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, divisor: jax.Array) -> jax.Array:
        return x / divisor


def fragile(batch: Any, **options: Any) -> tuple[TrainState, TrainState, Any]:
    model = Fragile()
    state = jax.jit(lambda: init_state(model, SGD, 0, (8, 8, 1)))()
    step = make_train_step(model, SGD, seed=0, mean=(0.0,), std=(1 / 255,), **options)
    return state, *jax.jit(step)(state, batch)


def white(batch: Any) -> Any:
    return batch | {"image": np.full_like(batch["image"], 255)}


def test_step_that_is_not_finite_can_be_left_out():
    batch = tiny_net.random_batch(0)
    batch["image"] = np.minimum(batch["image"], 250)
    before, after, metrics = fragile(white(batch), skip_nonfinite=True)
    chex.assert_trees_all_equal(after, before._replace(step=jnp.int32(1)))
    assert {name: float(x) for name, x in metrics.items() if x} == {"nonfinite": 1.0}
    expected = fragile(batch)[1:]
    chex.assert_trees_all_close(fragile(batch, skip_nonfinite=True)[1:], expected, rtol=1e-6)


def test_first_layer_that_is_not_finite_is_named():
    state = fragile(tiny_net.random_batch(0))[0]
    normalise = jnp.asarray
    batch = white(tiny_net.random_batch(0))
    where = first_nonfinite(Fragile(), state, batch, lambda x: normalise(x, jnp.float32), 0)
    assert where == "the output of ratio"
    params = state.params | {"fc": jax.tree.map(lambda x: x * jnp.nan, state.params["fc"])}
    where = first_nonfinite(Fragile(), state._replace(params=params), batch, normalise, 0)
    assert where == "the parameter fc/bias"


def poisoned(*steps: int) -> Any:
    """Within this, the metrics of these steps say that they were not finite."""

    def build_poisoned(*args: Any) -> Run:
        run = build(*args)

        def train_step(state: Any, batch: Any) -> Any:
            state, metrics = run.train_step(state, batch)
            return state, metrics | {"nonfinite": jnp.float32(int(state.step) in steps)}

        return run._replace(train_step=train_step)

    return mock.patch.object(loop, "build", build_poisoned)


def test_run_may_leave_out_some_steps_counts_them_and_ends_after_more(tmp_path: Path):
    config = dataclasses.replace(CONFIG, skip_nonfinite=3, workdir=tmp_path / "enough")
    with poisoned(3, 7, 8):
        quietly(config)
    rows = [row for row in read_rows(tmp_path / "enough" / "metrics.jsonl") if row["kind"] == "train"]
    assert [row.get("skipped") for row in rows] == [1, 2, None]

    config = dataclasses.replace(CONFIG, skip_nonfinite=2, workdir=tmp_path / "more")
    with poisoned(3, 6, 8), pytest.raises(loop.TrainingError, match="not finite at step"):
        quietly(config)


def run_supervised(code: str) -> subprocess.CompletedProcess[str]:
    lines = ["import os, sys, jax", "from train.distributed import supervised", "def run():", f"    {code}"]
    program = "\n".join([*lines, "sys.exit(supervised(run))"])
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)


def test_supervised_process_hands_its_status_on():
    found = run_supervised("print('there', flush=True); return 3")
    assert (found.returncode, found.stdout, found.stderr) == (3, "there\n", "")


def test_supervised_process_that_is_aborted_is_explained_in_a_sentence():
    found = run_supervised("os.abort()")
    assert found.returncode == 1
    assert re.fullmatch(r"error: this process was ended by SIGABRT, .* last checkpoint\n", found.stderr)
