import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from rich.console import Console

from tests.train import tiny_net
from train.__main__ import main
from train.checkpoint import load_variables
from train.config import Config, ConfigError
from train.data import ArraySource, DataError, open_dataset
from train.display import Display
from train.loop import TrainingError, train
from train.metrics import MetricsFile, read_rows
from train.workdir import WorkdirError

pytestmark = pytest.mark.usefixtures("compile_once")

# 1437 training images: 22 steps an epoch.
SHORT = Config(epochs=2, log_every=5, save_every=8, keep_best=2)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of SHORT, run in one go."""
    run_dir = tmp_path_factory.mktemp("unbroken")
    with mock.patch("flaxarch.create", tiny_net.create):
        train(dataclasses.replace(SHORT, workdir=run_dir), Console(file=StringIO()))
    return run_dir


def timeless(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of metrics without what a clock says."""
    rows = read_rows(run_dir / "metrics.jsonl")
    clocks = ("seconds", "images_per_second", "step_seconds", "input_wait")
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


def assert_same_result(run_dir: Path, expected: Path) -> None:
    assert timeless(run_dir) == timeless(expected)
    for folder in ("last", "best"):
        found, wanted = load_variables(run_dir / folder), load_variables(expected / folder)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    for folder in ("last", "best"):
        assert sorted(os.listdir(run_dir / folder)) == sorted(os.listdir(expected / folder))


def interrupted_at(step: int) -> Any:
    """Within this, Ctrl-C is pressed in `step`."""
    advance = Display.advance

    def stop_there(display: Display, current: int) -> None:
        if current == step:
            raise KeyboardInterrupt
        advance(display, current)

    return mock.patch.object(Display, "advance", stop_there)


def test_run_leaves_rows_when_they_are_due_and_learns(unbroken: Path):
    rows = timeless(unbroken)
    trained = [row["step"] for row in rows if row["kind"] == "train"]
    tested = [row for row in rows if row["kind"] == "eval"]
    assert trained == [5, 10, 15, 20, 22, 25, 30, 35, 40, 44]
    assert [(row["step"], row["epoch"]) for row in tested] == [(22, 1.0), (44, 2.0)]
    assert tested[-1]["loss"] < tested[0]["loss"]
    assert tested[-1]["accuracy"] > 0.2
    assert sorted(os.listdir(unbroken / "last")) == ["40", "44"]
    assert sorted(os.listdir(unbroken / "best")) == ["22", "44"]
    assert json.loads((unbroken / "config.json").read_text())["epochs"] == 2


def test_interrupted_run_continues_to_the_rows_and_parameters_of_an_unbroken_one(
    unbroken: Path, tiny: None, tmp_path: Path
):
    config = dataclasses.replace(SHORT, workdir=tmp_path)
    for step in (3, 19, 23):  # before the first checkpoint; between rows; after an epoch
        with interrupted_at(step), pytest.raises(KeyboardInterrupt):
            train(config, Console(file=StringIO()))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a row that was cut off
    screen = StringIO()
    train(config, Console(file=screen, force_terminal=True, width=120))
    assert "continuing after step 16 of 44" in screen.getvalue()
    assert "epoch 2/2" in screen.getvalue()
    assert "images/s" in screen.getvalue()
    assert_same_result(tmp_path, unbroken)


@contextmanager
def full_disk_from(step: int, num_bytes: int) -> Iterator[None]:
    """Within this there is no room any more from `step` on, for files above that size."""
    advance = Display.advance

    with ExitStack() as stack:

        def fill(display: Display, current: int) -> None:
            if current == step:
                stack.enter_context(tiny_net.full_disk(num_bytes))
            advance(display, current)

        with mock.patch.object(Display, "advance", fill):
            yield


def test_run_whose_disk_fills_up_says_so_and_with_room_continues_to_the_same_end(
    unbroken: Path, tiny: None, tmp_path: Path
):
    config = dataclasses.replace(SHORT, workdir=tmp_path)
    sentence = (
        f"no checkpoint can be written to {tmp_path}: File too large; the newest checkpoint is of step 16, "
        "and once it can be written to, the same command continues this run"
    )
    with full_disk_from(23, num_bytes=2500), pytest.raises(TrainingError, match=f"^{re.escape(sentence)}$"):
        train(config, Console(file=StringIO()))
    train(config, Console(file=StringIO()))
    assert_same_result(tmp_path, unbroken)


def test_row_that_cannot_be_written_is_an_error_that_names_the_file(tmp_path: Path):
    rows = MetricsFile(tmp_path / "metrics.jsonl", 0)
    rows.write({"kind": "train", "step": 1})
    sentence = r"metrics\.jsonl cannot be written: File too large"
    with tiny_net.full_disk(60):
        with pytest.raises(WorkdirError, match=sentence):
            rows.write({"kind": "train", "step": 2, "loss": 0.123456789})
        with pytest.raises(WorkdirError, match=sentence):
            rows.close()
    rows = MetricsFile(tmp_path / "metrics.jsonl", 1)
    rows.write({"kind": "train", "step": 2})
    rows.close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]


def test_workdir_that_cannot_be_made_is_refused(tiny: None, tmp_path: Path):
    (tmp_path / "file").touch()
    config = dataclasses.replace(SHORT, workdir=tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match="file/run cannot be written: Not a directory"):
        train(config)


@dataclass(frozen=True, eq=False)
class Vanishing(ArraySource):
    """Examples whose file is gone in the evaluation after one of these steps."""

    run_dir: Path = Path()
    gone_after: tuple[int, ...] = ()

    def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if read_rows(self.run_dir / "metrics.jsonl")[-1]["step"] in self.gone_after:
            raise DataError("x.png is gone")
        return super().load(indices)


def test_test_image_that_vanishes_costs_no_step_and_its_evaluation_is_made_up_for(
    unbroken: Path, tiny: None, tmp_path: Path
):
    digits = open_dataset("digits", None)
    images, labels = digits.test.load(np.arange(360))
    config = dataclasses.replace(SHORT, workdir=tmp_path)
    for step in (22, 44):  # after the first epoch, and at the end
        test = Vanishing(images, labels, digits.test.class_names, run_dir=tmp_path, gone_after=(step,))
        with pytest.raises(TrainingError, match=r"x\.png is gone; the same command continues this run"):
            train(config, Console(file=StringIO()), digits._replace(test=test))
        assert str(step) in os.listdir(tmp_path / "last")
    train(config, Console(file=StringIO()))
    assert_same_result(tmp_path, unbroken)


def test_finished_run_says_so_and_changes_nothing(unbroken: Path, tiny: None):
    def contents() -> dict[Path, tuple[int, bytes]]:
        files = [path for path in unbroken.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before, screen = contents(), StringIO()
    accuracy = train(dataclasses.replace(SHORT, workdir=unbroken), Console(file=screen, width=200))
    assert contents() == before
    assert "this run is finished: 44 of 44 steps are done" in screen.getvalue()
    assert accuracy == timeless(unbroken)[-1]["accuracy"]
    assert f"test accuracy {100 * accuracy:.2f} %" in screen.getvalue()
    assert str(unbroken / "metrics.jsonl") in screen.getvalue()


def test_workdir_of_another_run_is_refused_before_anything_is_trained(unbroken: Path, tiny: None):
    with pytest.raises(ConfigError, match=r"learning_rate is 0\.1 there and 0\.2 here"):
        train(dataclasses.replace(SHORT, workdir=unbroken, learning_rate=0.2))


def test_loss_that_is_not_finite_stops_the_run_and_spoils_no_checkpoint(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    flags = "--steps 40 --learning-rate 1e18 --schedule constant --log-every 10 --save-every 1 --workdir"
    assert command(monkeypatch, *flags.split(), str(tmp_path)) == 1
    message = capsys.readouterr().err
    found = re.fullmatch(r"error: loss or gradient is not finite at step (\d+), first in (.+?);.*\n", message)
    assert found is not None, message
    first_bad = int(found[1])
    assert 1 < first_bad < 10
    assert max(map(int, os.listdir(tmp_path / "last"))) == first_bad - 1
    kept = load_variables(tmp_path / "last")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))
    assert all(np.isfinite(row["loss"]) for row in timeless(tmp_path))


def command(monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    """Exit status of `python -m train`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["train", *flags])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # so that the cache of these tests stays
    return main()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--model resnet21", "there is no model named 'resnet21': did you mean"),
        ("--data digit", "there is no data set 'digit'; the nearest name is 'digits'"),
        ("--data cifar10 --data-dir nowhere", "nowhere: no such file or folder"),
        ("--batch-size 100", "batch_size 100 does not give 8 devices equal shares"),
        ("--batch-size 1440", "batch_size 1440 is above the 1437 training images"),
        ("--model resnet50", "needs images of at least"),
        ("--learning-rate 0", "learning_rate is 0.0; it has to be above 0"),
        ("--parallel mesh --batch-norm-devices 1", "use parallel pmap"),
    ],
)
def test_bad_input_is_one_sentence_and_a_status_and_makes_no_folder(
    flags: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *flags.split()) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def start(run_dir: Path, cache: Path) -> subprocess.Popen[str]:
    """The command, with the tiny network, in a process of its own."""
    root = Path(__file__).parents[2]
    flags = ["--epochs", "8", "--save-every", "10", "--log-every", "7", "--workdir", str(run_dir)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(Path(tiny_net.__file__)), *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    return out


def test_run_killed_at_random_moments_ends_bit_for_bit_as_an_unbroken_one(tmp_path: Path):
    cache = tmp_path / "cache"
    finish(start(tmp_path / "unbroken", cache))
    for _ in range(2):
        process = start(tmp_path / "killed", cache)
        rows_before = len(read_rows(tmp_path / "killed" / "metrics.jsonl"))
        while len(read_rows(tmp_path / "killed" / "metrics.jsonl")) < rows_before + 3:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.2))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert "test accuracy" in finish(start(tmp_path / "killed", cache))
    assert_same_result(tmp_path / "killed", tmp_path / "unbroken")
