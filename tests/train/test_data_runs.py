import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from train.build import build
from train.checkpoint import load_variables
from train.config import Config, ConfigError, validate
from train.data import ArraySource, Batch, DataError, Dataset, from_sequence, open_dataset
from train.data import folder as folder_module
from train.loop import TrainingError, _train_batches, train
from train.metrics import Stopwatch, read_rows

pytestmark = pytest.mark.usefixtures("compile_once")

# 1437 training images: 22 steps an epoch.
SHORT = Config(steps=6, log_every=3)


def digits() -> Dataset:
    return open_dataset("digits", None)


def run(config: Config, data: Dataset | None = None) -> tuple[float, str]:
    screen = StringIO()
    accuracy = train(config, Console(file=screen, width=300), data=data)
    return accuracy, screen.getvalue()


def batches(config: Config, data: Dataset | None = None) -> list[Batch]:
    """The first batches of a run."""
    stream = _train_batches(config, build(config, data), 0)
    found = list(islice(stream, 3))
    stream.close()
    return found


def test_a_run_on_given_data_is_that_on_the_same_data_by_name(tiny: None):
    named = digits()
    parts = [list(zip(*x.load(np.arange(len(x))), strict=True)) for x in (named.train, named.test)]
    given = from_sequence(*parts, class_names=named.train.class_names, mean=named.mean, std=named.std)
    for batch, other in zip(
        batches(dataclasses.replace(SHORT, data="mine"), given), batches(SHORT), strict=True
    ):
        np.testing.assert_array_equal(batch["image"], other["image"])
        np.testing.assert_array_equal(batch["label"], other["label"])


@dataclass(frozen=True, eq=False)
class Watched(ArraySource):
    """Notes for each load whether the evaluation of the last step was done."""

    run_dir: Path = Path()
    asked: tuple[list[bool], ...] = ([],)

    def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = read_rows(self.run_dir / "metrics.jsonl")
        self.asked[0].append(any(row["step"] == 6 and row["kind"] == "eval" for row in rows))
        return super().load(indices)


def test_validation_decides_and_the_test_images_are_met_once_at_the_end(tmp_path: Path, tiny: None):
    config = dataclasses.replace(SHORT, validation_share=0.2, workdir=tmp_path)
    real = digits()
    images, labels = real.test.load(np.arange(360))
    test = Watched(images, labels, real.test.class_names, run_dir=tmp_path)
    accuracy, said = run(config, real._replace(test=test))
    rows = read_rows(tmp_path / "metrics.jsonl")
    kinds = [(row["kind"], row["step"], row.get("of")) for row in rows if row["kind"] != "train"]
    assert kinds == [("eval", 6, "validation"), ("test", 6, None)]
    assert test.asked == ([True] * 6,)  # batches of 64
    assert accuracy == rows[-1]["accuracy"]
    assert "1150 training, 287 validation and 360 test images" in said
    assert f"test accuracy {100 * accuracy:.2f} %, best validation accuracy" in said
    again, said = run(config, real)
    assert again == accuracy
    assert "this run is finished" in said


def test_without_test_images_a_run_needs_validation(tmp_path: Path, tiny: None):
    train_source = digits().train
    data = from_sequence(
        list(zip(*train_source.load(np.arange(200)), strict=True)), class_names=train_source.class_names
    )
    config = dataclasses.replace(SHORT, data="mine", workdir=tmp_path)
    with pytest.raises(DataError, match="mine has no test examples; give some, or a validation_share"):
        build(config, data)
    accuracy, said = run(dataclasses.replace(config, validation_share=0.2), data)
    assert f"validation accuracy {100 * accuracy:.2f} %, best" in said
    assert "160 training and 40 validation images" in said


def test_choices_of_examples_reach_the_run(tiny: None):
    copies = batches(dataclasses.replace(SHORT, repeated_augmentation=4))
    assert all(len(np.unique(batch["image"], axis=0)) <= 16 for batch in copies)
    few = build(dataclasses.replace(SHORT, train_share=0.1)).data
    assert (len(few.train), len(few.test)) == (144, 360)
    plain, balanced = batches(SHORT), batches(dataclasses.replace(SHORT, balanced_classes=True))
    assert not np.array_equal(plain[0]["label"], balanced[0]["label"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"validation_share": 1.0}, "validation_share is 1.0; it has to be at least 0 and below 1"),
        ({"train_share": 0.0}, "train_share is 0.0; it has to be above 0 and at most 1"),
        ({"repeated_augmentation": 5}, "batch_size 64 does not hold 5 copies of each image"),
    ],
)
def test_unfit_choices_of_examples_are_named(changed: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        validate(dataclasses.replace(SHORT, **changed))


def test_a_file_that_vanishes_in_a_run_is_named_and_put_back_the_run_goes_on(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folder_module, "IN_MEMORY_BYTES", 0)
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 4)):
        for i in range(count):
            path = folder / split / ("ape", "bee")[i % 2] / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    config = Config(
        data="folder", data_dir=folder, steps=20, batch_size=8, log_every=1, save_every=20, eval_every=9
    )
    run(dataclasses.replace(config, workdir=tmp_path / "unbroken"))

    gone, kept = folder / "train/ape/10.png", tmp_path / "kept.png"

    class Vanishing(Stopwatch):
        steps = 0

        def step(self) -> None:
            super().step()
            self.steps += 1
            if self.steps == 3:
                gone.rename(kept)

    broken = dataclasses.replace(config, workdir=tmp_path / "broken")
    with (
        mock.patch("train.loop.Stopwatch", Vanishing),
        pytest.raises(TrainingError, match=r"ape/10\.png is gone.*the same command continues this run"),
    ):
        run(broken)
    kept.rename(gone)
    saved = max(int(path.name) for path in (tmp_path / "broken/last").iterdir())
    assert saved >= 3  # of steps 1 to 20, whose only checkpoint would have been the last
    _, said = run(broken)
    assert f"continuing after step {saved} of 20" in said
    found, expected = (load_variables(tmp_path / name / "last") for name in ("broken", "unbroken"))
    np.testing.assert_array_equal(found["params"]["conv1"]["kernel"], expected["params"]["conv1"]["kernel"])


def test_rows_tell_the_share_of_time_that_was_spent_waiting_for_input(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def batches() -> Iterator[int]:
        while True:
            now[0] += 1.0
            yield 0

    stopwatch, source = Stopwatch(8), batches()
    assert stopwatch.lap()["input_wait"] is None
    stopwatch.next_of(source)  # before the first step it is not timed
    stopwatch.start()
    for _ in range(2):
        stopwatch.next_of(source)
        now[0] += 3.0
        stopwatch.step()
    stopwatch.stop()
    assert stopwatch.lap() == {"images_per_second": 2.0, "step_seconds": 4.0, "input_wait": 0.25}
    assert stopwatch.lap()["input_wait"] is None
