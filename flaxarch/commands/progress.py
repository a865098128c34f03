"""How far a command has come with its pictures, on stderr."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flaxarch import pictures
from flaxarch.commands.base import printable, stderr


@contextmanager
def progress(
    paths: Sequence[Path], in_sight: bool
) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A bar on stderr, if that is a terminal and the results themselves are not `in_sight`.

    Gives two functions: one counts a picture, one writes a line above the bar.
    """
    console = stderr()
    columns = TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    disable = in_sight or not console.is_terminal
    with Progress(*columns, console=console, disable=disable, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None if disable else pictures.count(paths))
        yield lambda: bar.advance(task), lambda text: console.print(printable(text))
