"""What a run measures of itself, and the report that is made of it."""

import dataclasses
import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from PIL import Image
from rich.console import Console

from tests.train import tiny_net
from train import __main__ as command
from train import report
from train.config import Config
from train.loop import train
from train.metrics import count_flops, peak_flops, read_rows, step_flops, utilisation
from train.recipes import recipe_config


def test_operations_of_a_step_are_those_of_its_products():
    def step(state: jax.Array, batch: dict[str, jax.Array], teacher: None) -> jax.Array:
        return batch["image"] @ state

    found = step_flops(step, jnp.ones((32, 16)), {"image": jnp.ones((8, 32))})
    assert found == 2 * 8 * 32 * 16


def test_operations_of_loops_count_as_often_as_they_run():
    def twice_squared(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jax.lax.fori_loop(0, 2, lambda _, x: x @ x, x), None

    @jax.checkpoint
    def step(x: jax.Array) -> jax.Array:
        return jax.lax.scan(twice_squared, x @ x, None, length=3)[0]

    assert count_flops(step, jnp.ones((16, 16))) == pytest.approx(7 * 2 * 16**3, rel=1e-2)


def test_peak_is_that_of_the_longest_name_that_fits():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("cpu") is None
    assert utilisation(1e12, 1.0) is None  # on this CPU
    with mock.patch("train.metrics.peak_flops", return_value=1e12):
        assert utilisation(4e12, 2.0) == pytest.approx(2 / jax.device_count())


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorboardX")
    path = tmp_path_factory.mktemp("runs") / "a run"
    config = Config(steps=44, log_every=11, batch_size=64, ema_decay=0.9, tensorboard=True, profile=2)
    with mock.patch("flaxarch.create", tiny_net.create):
        train(dataclasses.replace(config, workdir=path), Console(file=StringIO()))
    return path


def test_rows_have_speed_and_operations(run_dir: Path):
    rows = [row for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["flops"] / rows[0]["flops"] for row in rows] == pytest.approx([1, 2, 3, 4])
    row = rows[-1]
    assert row["images_per_second"] * row["step_seconds"] == pytest.approx(64, rel=0.01)


def test_averaged_weights_are_tested_too(run_dir: Path):
    last = read_rows(run_dir / "metrics.jsonl")[-1]
    assert last["kind"] == "eval"
    assert 0 <= last["ema_accuracy"] <= 1
    assert last["ema_loss"] != last["loss"]


def test_events_and_trace_are_written(run_dir: Path):
    assert list((run_dir / "tensorboard").glob("events.out.tfevents.*"))
    assert list((run_dir / "profile").rglob("*.xplane.pb"))


def report_of(monkeypatch: pytest.MonkeyPatch, *words: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["report", *map(str, words)])
    return report.main()


def test_flags_are_those_that_make_the_configuration_again():
    given = dataclasses.replace(
        recipe_config("he2015_cifar"), model="resnet20", crop_scale=(0.5, 1.0), decay_all=False
    )
    flags = report.given_flags(json.loads(json.dumps(vars(given))))
    assert flags == ["--recipe he2015_cifar", "--model resnet20", "--crop-scale 0.5 1.0", "--no-decay-all"]
    words = [word for flag in flags for word in flag.split()]
    with mock.patch.object(sys, "argv", ["train", *words]), mock.patch.object(command, "_run") as run:
        run.return_value = 0
        assert command.main() == 0
    assert run.call_args.args[0] == given


def test_report_is_a_picture_and_one_page_with_everything_in_it(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert report_of(monkeypatch, run_dir.parent, "--out", tmp_path / "new" / "runs") == 0
    with Image.open(tmp_path / "new" / "runs.png") as picture:
        assert picture.width > 1000
    text = (tmp_path / "new" / "runs.html").read_text()
    for part in ("a run", "--ema-decay 0.9", "<th>PFLOP</th>", "data:image/png;base64,"):
        assert part in text
    assert "http" not in text


@pytest.mark.parametrize(
    ("words", "sentence"), [(("nowhere",), "nowhere holds no run"), ((), "no run to report")]
)
def test_report_of_nothing_is_a_sentence(
    words: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert report_of(monkeypatch, *words) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
