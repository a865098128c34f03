"""`flaxarch`: parses the command line, runs one command, and turns errors into a sentence and an exit status.

0: done; 1: failed; 2: cannot be done as asked; 130: interrupted; 141: whoever read the output left. A command
is a file in `flaxarch/commands/` and a place in `COMMANDS`.
"""

import contextlib
import difflib
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Union

import tyro

from flaxarch.commands import train
from flaxarch.commands.base import Command, CommandError, UsageError, remark
from flaxarch.commands.claims import Claims
from flaxarch.commands.compare import Compare
from flaxarch.commands.convert import Convert
from flaxarch.commands.explain import Explain
from flaxarch.commands.export import Export
from flaxarch.commands.list import List
from flaxarch.commands.predict import Predict
from flaxarch.commands.summary import Summary
from flaxarch.commands.train import Train

COMMANDS: tuple[type[Command], ...] = (
    List,
    Summary,
    Compare,
    Convert,
    Predict,
    Explain,
    Export,
    Train,
    Claims,
)

_ABOUT = "Deep convolutional networks in JAX and Flax: what there is, what it costs, weights, predictions."
_STYLE = (
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.DisallowNone,
    tyro.conf.PositionalMetavarFromFieldName,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` (None: the arguments of the process) asks for; the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those for programmers
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = lambda message, *_, **__: remark(f"note: {message}")
            run = _prepared(argv)
            status = 0 if run is None else run()
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        _close_stdout()
        return 141
    except KeyboardInterrupt:
        remark("interrupted")
        return 130
    except Exception as error:
        if "--debug" in argv:
            traceback.print_exc()
        sentence, status = _explained(error)
        remark(f"error: {sentence}")
        return status


def _close_stdout() -> None:
    """What is left to be written goes nowhere, so that Python does not complain of it at its end."""
    with contextlib.suppress(OSError, ValueError):  # no real file, in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepared(argv: list[str]) -> Callable[[], int] | None:
    """The command; None where tyro has printed all that was asked for: help, or a script for completion."""
    names = [command.__name__.lower() for command in COMMANDS]
    if argv and not argv[0].startswith("-") and argv[0] not in names:
        near = difflib.get_close_matches(argv[0], names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise UsageError(f"there is no command {argv[0]!r}: {hint}")
    if argv and argv[0].startswith("-") and not re.match("-h$|--help$|--tyro-", argv[0]):
        raise UsageError(
            f"{argv[0]} comes before a command: the command is first, as in `flaxarch list --json`"
        )
    if argv[:1] == ["train"]:
        return train.prepare(argv[1:], _parsed)
    commands: Any = Union[COMMANDS]  # noqa: UP007  # it is made from a tuple
    options: Any = {"prog": "flaxarch", "description": _ABOUT, "config": _STYLE}
    parse = partial(tyro.cli, commands, args=argv or ["--help"], **options)
    command: Command | None = _parsed(parse, argv[0] if argv else "")
    return None if command is None else command.run


def _parsed(parse: Callable[[], Any], name: str = "train") -> Any:
    """What a call of tyro gives, for a command; None where it has printed all that was asked for."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit as end:
        if not end.code:
            return None
    raise UsageError(_sentence(said.getvalue(), name))


def _sentence(box: str, name: str) -> str:
    """What tyro says of wrong flags in several parts, as one sentence.

    It is in a box, or, where the terminal's encoding has no such signs, under a title and between rules.
    """
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in box.splitlines()]
    boxed = [line[2:-1].rstrip() for line in lines if line.startswith("│")]
    inside = boxed or lines[2:]
    box = "\n".join(inside)
    ends = [i for i, line in enumerate(inside) if not line.strip("-─ ")]  # a rule, or an empty line
    said = [line for line in inside[: min(ends, default=None)] if not line.startswith(" " * 8)]  # flags' help
    sentence = " ".join(" ".join(said).split()).rstrip(".:")
    if not sentence:  # tyro says it in another way than its 1.0 does
        return " ".join(box.split())
    near = re.search(r"Perhaps you meant:\s+(--[\w-]+)", box)
    hint = f": did you mean {near[1]}?" if near else f"; `flaxarch {name} --help` has all flags"
    return _plainly(sentence[:1].lower() + sentence[1:]) + hint


def _plainly(sentence: str) -> str:
    """What is said of a value that does not parse, without Python's words."""
    words = re.match(r"error parsing (\S+): (.*)", sentence)
    if words is None:
        return sentence
    flag, reason = words.groups()
    if number := re.match(
        r"invalid literal for int.*: ('.*')|could not convert string to float: ('.*')", reason
    ):
        kind = "whole number" if number[1] else "number"
        return f"{flag} is {number[1] or number[2]}: it has to be a {kind}"
    if several := re.match(r"no type matching \{((?:INT ?)+)\} could be instantiated from \[(.*)\]", reason):
        given = several[2].replace("'", "").replace(",", "")
        return f"{flag} is {given}: it has to be {len(several[1].split())} whole numbers"
    return f"{flag}: {reason}"


def _explained(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit status."""
    if isinstance(error, UsageError):
        return str(error), 2
    from flaxarch.registry import UnknownModelError  # brings JAX

    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}", 2 if isinstance(error, FileNotFoundError) else 1
    if isinstance(error, UnknownModelError | FileNotFoundError):
        return str(error), 2
    if isinstance(error, CommandError | OSError | ValueError):
        return str(error).replace("load(path, name=...)", "--name NAME"), 1
    return f"{type(error).__name__}, which flaxarch did not expect ({error}); --debug shows where", 1
