"""What all commands share: two flags, errors, and the ways to write to stdout and stderr."""

import json as json_
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


class UsageError(ValueError):
    """A command that cannot be carried out as asked: exit status 2."""


class CommandError(RuntimeError):
    """A command that failed: exit status 1."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """The flags of every command."""

    json: bool = False
    """Print one JSON document to stdout, and nothing else there."""
    debug: bool = False
    """Show where in the code an error arose."""

    def run(self) -> int:
        """Does it; the exit status."""
        raise UsageError(f"{type(self).__name__} does nothing")


class Column(NamedTuple):
    """A column of a table."""

    title: str
    is_number: bool = False


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would end the process


def stdout() -> Console:
    """Where results go, for people: coloured on a terminal, plain and as wide as needed elsewhere."""
    return _console(sys.stdout)


def stderr() -> Console:
    """Where progress, remarks and errors go."""
    return _console(sys.stderr)


def _console(file: Any) -> Console:
    width = None if file.isatty() else 10_000
    return _Console(file=file, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)


def remark(text: str) -> None:
    """A line on stderr."""
    stderr().print(printable(text))


def print_json(document: Any) -> None:
    """The one document on stdout. Names of files that are not UTF-8 are escaped."""
    json_.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> None:
    """A table on stdout."""
    console = stdout()
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for i, column in enumerate(columns):
        justify = "right" if column.is_number else "left"
        table.add_column(column.title, justify=justify, no_wrap=column.is_number or i == 0)
    for row in rows:
        table.add_row(*row)
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    with console.capture() as captured:
        console.print(table, soft_wrap=False)
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def printable(text: str) -> str:
    """Names from files, without what would steer the terminal."""
    return "".join(x if x.isprintable() else "?" for x in text)


def short(number: int) -> str:
    """25557032 -> "25.6M": three digits."""
    scaled, unit = float(number), ""
    for larger in ("k", "M", "G", "T"):
        if scaled < 999.5:
            break
        scaled, unit = scaled / 1000, larger
    return f"{scaled:.3g}{unit}" if unit else f"{number}"


def times(sizes: Iterable[float]) -> str:
    """(224, 224, 3) -> "224x224x3"."""
    return "x".join(f"{size:g}" for size in sizes)
