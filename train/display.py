"""What a run's progress looks like to people: a bar, and a line per evaluation."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from train.metrics import Row


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
        """Shows test or validation metrics."""
        epoch, of = self._epoch(row["step"]), row.get("of", "test")
        self._console.print(
            f"epoch {epoch}/{self._epochs}  step {row['step']}  {self._train}  "
            f"{of} loss {row['loss']:.4f}  {of} accuracy {100 * row['accuracy']:.2f} %"
            + (f"  averaged {100 * row['ema_accuracy']:.2f} %" if "ema_accuracy" in row else ""),
            highlight=False,
            soft_wrap=True,
        )

    def _epoch(self, step: int) -> int:
        """The epoch, counted from 1, that the step belongs to."""
        return max(1, -(-step // self._steps_per_epoch))
