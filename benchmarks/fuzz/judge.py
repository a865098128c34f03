"""Loads one file, and says how that ended: loaded, refused in one sentence, or a failure."""

import contextlib
import re
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import flaxarch
from benchmarks.fuzz.bases import equals
from benchmarks.fuzz.cases import FORMATS, SECRET, Case, write

MOST_CHARACTERS, MOST_SECONDS, MOST_BYTES = 2000, 10.0, 2**31

# What a sentence names, most telling first; what it is about is no smaller than the file in the last ones.
PLACES = {
    "tensor": r"\btensors? (named |up to )?['\"]|is no tensor$|missing: |unexpected: |of another shape: ",
    "entry": r"\bentry ['\"]|\bentries ['\"]|entry data\.pkl",
    "storage": r"\bstorages? ",
    "byte": r"\bbyte \d",
    "part": r"the part ['\"]|is no name of a file beside it",
    "metadata": r"does not describe a model",
    "group or attribute": r"attribute ['\"]|: ['\"]/[^'\"]*['\"]",
    "row": r"fits (no row|several rows)|holds an? \w+, not an? ",
    "whole file": r"the file is empty|no format that is read|has no directory|no state dict|file is cut short"
    r"|not one that torch\.save wrote|version of the legacy format|no index of safetensors|byte order is"
    r"|TorchScript|over [\d,]+ parts",
}

# What nothing that loads a file has to do: Python announces it to its audit hooks.
FORBIDDEN = re.compile(
    r"os\.(system|exec|posix_spawn|fork|forkpty|putenv|unsetenv|mkdir|rmdir|remove|rename|link|symlink|chmod|kill)"
    r"|subprocess\.Popen|pickle\.find_class|socket\..*|shutil\..*|ctypes\.dlopen|exec|compile|webbrowser\.open"
    r"|pty\.spawn|marshal\.loads|code\.__new__|urllib\.Request|import"
)


class Outcome(NamedTuple):
    """How one load ended."""

    kind: str  # "equal", "other values", "refused", or, a failure, anything else
    place: str  # what a refusal names
    message: str
    seconds: float
    peak: int  # bytes of memory above those before
    events: list[str]  # forbidden ones


class Watch:
    """Notes forbidden events while it is on; an audit hook cannot be taken back."""

    def __init__(self):
        self.folder: Path | None = None
        self.events: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "open":
            path, mode, _flags = args
            is_written = isinstance(mode, str) and set(mode) & set("wax+")
            if isinstance(path, str | bytes) and not is_written and Path(str(path)).parent == self.folder:
                return
            is_source = not is_written and str(path).endswith(".py")  # for a traceback, which JAX filters
            if isinstance(path, int) or is_source or str(path).startswith("/proc/"):
                return
        elif not FORBIDDEN.fullmatch(event):
            return
        self.events.append(f"{event} {args!r}"[:200])


def trace_once(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Trace a network's shapes once for all files: it takes most of the time, and no file changes it."""
    modules = [import_module(f"flaxarch.convert.{name}") for name in ("recognise", "weights")]
    trace = modules[0].shapes_of
    traced: dict[Any, Any] = {}

    def shapes_of(model: Any, channels: int | None = None) -> Any:
        key = (repr(model), channels)
        if key not in traced:
            traced[key] = trace(model, channels)
        return traced[key]

    for module in modules:
        replace(module, "shapes_of", shapes_of)


def warm(folder: Path) -> None:
    """Load the first files of each format, so that what Python and JAX import late is imported."""
    for i, fmt in enumerate(FORMATS):
        for number in range(4):
            case = write(fmt, number, folder / f"{i} {number}")
            with contextlib.suppress(FileNotFoundError, ValueError):
                flaxarch.load(case.path, case.name)


def load(case: Case, watch: Watch) -> Outcome:
    """Load the case's file under the watch."""
    watch.events.clear()
    before, start = _reset_peak(), time.perf_counter()
    watch.folder = case.path.parent
    place = message = ""
    try:
        _, variables = flaxarch.load(case.path, case.name)
    except (FileNotFoundError, ValueError) as error:  # CheckpointError is a ValueError
        watch.folder = None
        kind, place, message = _refusal(str(error), case)
    except Exception as error:
        watch.folder = None
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind, message = "another exception", f"{error!r} at {Path(where.filename).name}:{where.lineno}"[:1000]
    else:
        watch.folder = None
        kind = "equal" if equals(case.row, variables) else "other values"
        if any(np.any(np.asarray(x) == SECRET) for x in jax.tree.leaves(variables)):
            kind = "read outside of the file"
    seconds, peak = time.perf_counter() - start, max(_peak() - before, 0)
    if (case.path.parent / "canary").exists() or watch.events:
        kind, message = "executed", f"{watch.events} {message}"
    elif seconds > MOST_SECONDS:
        kind = "too slow"
    elif peak > MOST_BYTES:
        kind = "too much memory"
    return Outcome(kind, place, message, seconds, peak, list(watch.events))


def _refusal(message: str, case: Case) -> tuple[str, str, str]:
    if len(message.splitlines()) != 1 or len(message) > MOST_CHARACTERS:
        return "not one sentence", "", message
    if case.path.name not in message:
        return "does not name the file", "", message
    for place, pattern in PLACES.items():
        if re.search(pattern, message):
            return "refused", place, message
    return "does not name the place", "", message


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    match = re.search(rf"{field}:\s+(\d+)", text)
    return int(match[1]) * 1024 if match else 0


def _peak() -> int:
    return _status("VmHWM")


def _reset_peak() -> int:
    """Begin to measure the peak anew; bytes of memory now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _status("VmRSS")
