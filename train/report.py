"""What a run tells: rows in metrics.jsonl for programs, a bar and a line per evaluation for people."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from train.config import write_atomically

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl, less a last one that was cut off; none where there is no file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:  # killed while writing it
            break
    return rows


class MetricsFile:
    """The rows up to `step`, the step that a run continues from, and after them those to come.

    Of several processes one has a path, and the others write nothing.
    """

    def __init__(self, path: Path | None, step: int) -> None:
        self._file = None
        if path is None:
            return
        kept = [row for row in read_rows(path) if row["step"] <= step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        """Adds a row."""
        if self._file:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Rows are on the disk after this: call it before the checkpoint that counts on them."""
        if self._file:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends writing."""
        if self._file:
            self._file.close()


class Stopwatch:
    """Images per second between rows, compilation, evaluation and checkpoints left out."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._steps = 0
        self._seconds = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Steps that follow are timed."""
        if self._started is None:
            self._started = time.perf_counter()

    def step(self) -> None:
        """A step was made."""
        self._steps += self._started is not None

    def stop(self) -> None:
        """What follows is not timed. All steps have to be finished on the devices."""
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    def lap(self) -> float | None:
        """Images per second since the last lap, to one decimal; None without a timed step."""
        rate = round(self._steps * self._batch_size / self._seconds, 1) if self._steps else None
        self._steps, self._seconds = 0, 0.0
        return rate


class Display:
    """A progress bar where the output is a terminal, and a line per evaluation everywhere."""

    def __init__(self, console: Console, start: int, total_steps: int, steps_per_epoch: int) -> None:
        self._console = console
        self._steps_per_epoch = steps_per_epoch
        self._epochs = -(-total_steps // steps_per_epoch)
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.fields[measured]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(
            "", total=total_steps, completed=start, epoch=self._epoch(start), epochs=self._epochs, measured=""
        )
        self._train = ""

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Step `step` was made."""
        self._bar.update(self._task, completed=step, epoch=self._epoch(step))

    def train_row(self, row: Row) -> None:
        """Shows training metrics."""
        self._train = f"loss {row['loss']:.4f}  accuracy {100 * row['accuracy']:.2f} %"
        if row["images_per_second"] is not None:
            self._train += f"  {row['images_per_second']:.0f} images/s"
        self._bar.update(self._task, measured=self._train)

    def eval_row(self, row: Row) -> None:
        """Shows test metrics."""
        epoch = self._epoch(row["step"])
        self._console.print(
            f"epoch {epoch}/{self._epochs}  step {row['step']}  {self._train}  "
            f"test loss {row['loss']:.4f}  test accuracy {100 * row['accuracy']:.2f} %"
            + (f"  averaged {100 * row['ema_accuracy']:.2f} %" if "ema_accuracy" in row else ""),
            highlight=False,
            soft_wrap=True,
        )

    def _epoch(self, step: int) -> int:
        """The epoch, counted from 1, that the step belongs to."""
        return max(1, -(-step // self._steps_per_epoch))
