"""Runs that are stopped and started again, and how they differ from the same run in one go."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxarch.convert import read_checkpoint
from train.checkpoint import load_best, load_variables, steps_in
from train.export import WEIGHTS
from train.metrics import read_rows

ANY, IN_SAVE, TERM = "any moment", "in a save", "SIGTERM"

# All that a step can draw from the seed, and all that a state can hold. There is a row of metrics for each
# step, so that the rows tell how far a run had come.
FLAGS = (
    *("--model", "resnet20", "--survival-prob", "0.8", "--data", "digits", "--augment", "crop"),
    *("--ema-decay", "0.99", "--log-every", "1", "--eval-every", "2", "--keep-best", "2"),
)
AFTER_START = 5.0  # seconds of training, the most before a signal
OF_A_SAVE = 0.2  # seconds, the most before the end of a process whose save was seen to begin
CLOCKS = ("seconds", "images_per_second", "step_seconds", "input_wait")
ITEMS = {"last": ("variables", "training"), "best": ("variables",)}
_FINISHED = "of other runs\n"  # the last words of a run


@dataclass(frozen=True)
class Plan:
    """A run, and how often it is stopped in which way."""

    steps: int
    save_every: int
    stops: dict[str, int]


@dataclass
class Life:
    """A process from its launch to its end."""

    stop: str
    seconds: float  # from the launch to the signal
    status: int
    step: int  # the last one made
    kept: int  # the step of the newest checkpoint
    half_written: list[str]  # checkpoints that the process had begun and not finished

    @property
    def lost(self) -> int:
        """Steps that are to be made again."""
        return self.step - self.kept


@dataclass
class Survivor:
    """A run that was stopped and started again, to its end."""

    lives: list[Life] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)  # from the run in one go
    unreadable: list[str] = field(default_factory=list)


class Laboratory:
    """Runs of one plan, in a folder."""

    def __init__(self, plan: Plan, folder: Path, rng: random.Random) -> None:
        self.plan, self.folder, self.rng = plan, folder, rng
        self.startup = 0.0  # seconds from a launch to the first row

    def launch(self, run_dir: Path) -> subprocess.Popen[bytes]:
        """Starts or continues a run."""
        flags = ["--steps", self.plan.steps, "--save-every", self.plan.save_every, "--workdir", run_dir]
        cache = {"JAX_COMPILATION_CACHE_DIR": str(self.folder.parent / "xla")}
        cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        with _said(run_dir).open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "train", *FLAGS, *map(str, flags)],
                env={**os.environ, **cache},
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def finish(self, run_dir: Path) -> None:
        """Lets a run come to its end."""
        process = self.launch(run_dir)
        if process.wait() != 0:
            raise RuntimeError(f"the run in {run_dir} failed: {_said(run_dir).read_text()[-2000:]}")

    def unbroken(self) -> Path:
        """The run in one go; the second, as the first has to compile."""
        self.finish(self.folder / "compiled")
        run_dir = self.folder / "unbroken"
        began = time.monotonic()
        process = self.launch(run_dir)
        while not read_rows(run_dir / "metrics.jsonl") and process.poll() is None:
            time.sleep(0.01)
        self.startup = time.monotonic() - began
        process.wait()
        return run_dir

    def live(self, run_dir: Path, stop: str) -> Life | None:
        """Launches the run and stops it; None: it came to its end before."""
        before, earlier = set(_half_written(run_dir)), _identity(run_dir)
        began = time.monotonic()
        process = self.launch(run_dir)
        for _ in self._until(stop, run_dir, began):
            if process.poll() is not None:
                return None
        process.send_signal(signal.SIGTERM if stop == TERM else signal.SIGKILL)
        seconds = time.monotonic() - began
        status = process.wait()
        if _said(run_dir).read_text().endswith(_FINISHED):
            return None
        half_written = sorted(name for name, _ in set(_half_written(run_dir)) - before)
        kept = max(steps_in(run_dir / "last"), default=0)
        # A process that was stopped ahead of its first step has left the rows as they were.
        step = kept if _identity(run_dir) == earlier else max(kept, _last_row(run_dir))
        return Life(stop, round(seconds, 3), status, step, kept, half_written)

    def _until(self, stop: str, run_dir: Path, began: float) -> Iterator[None]:
        """Goes on until the moment has come."""
        if stop == ANY:
            moment = began + self.rng.uniform(0, self.startup + AFTER_START)
            while time.monotonic() < moment:
                yield time.sleep(0.001)
            return
        earlier, kept = _identity(run_dir), max(steps_in(run_dir / "last"), default=0)
        while _identity(run_dir) == earlier or _last_row(run_dir) <= kept:
            yield time.sleep(0.01)
        moment = time.monotonic() + self.rng.uniform(0, AFTER_START / 2)
        while time.monotonic() < moment:
            yield time.sleep(0.001)
        if stop == TERM:
            return
        seen = set(_half_written(run_dir))
        while not (now := set(_half_written(run_dir))) - seen:
            seen &= now
            yield time.sleep(0.0005)
        yield time.sleep(self.rng.uniform(0, OF_A_SAVE))

    def survive(self, name: str, expected: Path, stops: list[str]) -> Survivor:
        """Makes a run to its end, stopped as the last of `stops` say, which are taken from the list."""
        run_dir, survivor = self.folder / name, Survivor()
        while stops:
            life = self.live(run_dir, stops[-1])
            if life is None:
                break
            survivor.lives.append(life)
            survivor.unreadable += _unreadable(run_dir)
            print(life, flush=True)
            if life.stop != IN_SAVE or life.half_written:  # it had just ended otherwise: once more
                stops.pop()
        self.finish(run_dir)
        said = _said(run_dir).read_text()
        survivor.unreadable += re.findall(r"checkpoint \d+ cannot be read.*", said)
        survivor.differences = differences(run_dir, expected)
        return survivor


def _said(run_dir: Path) -> Path:
    return run_dir.with_suffix(".txt")


def _identity(run_dir: Path) -> int | None:
    """Tells whether a process has begun its rows, for which it replaces the file."""
    path = run_dir / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else None


def _last_row(run_dir: Path) -> int:
    rows = read_rows(run_dir / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


def _half_written(run_dir: Path) -> list[tuple[str, int]]:
    """Checkpoints that are not yet renamed to their step, as best/44, each with the number of its folder."""
    found = []
    for kind in ("last", "best"):
        try:
            with os.scandir(run_dir / kind) as entries:
                found += [
                    (f"{kind}/{x.name.split('.')[0]}", x.inode()) for x in entries if not x.name.isdecimal()
                ]
        except FileNotFoundError:
            continue
    return found


def _unreadable(run_dir: Path) -> list[str]:
    """What does not read as a whole of that which a run goes back to: the two newest, and the best."""
    failures = []
    for step in steps_in(run_dir / "last")[-2:]:
        for item in ITEMS["last"]:
            try:
                load_variables(run_dir / "last", step, item)
            except Exception as error:
                failures.append(f"{item} of step {step}: {error!r}")
    try:
        load_best(run_dir)
    except Exception as error:
        failures.append(f"the best: {error!r}")
    return failures


def differences(run_dir: Path, expected: Path) -> list[str]:
    """What is not equal bit for bit in two finished runs, clocks aside."""
    found = []
    for kind, items in ITEMS.items():
        steps = steps_in(expected / kind)
        if steps_in(run_dir / kind) != steps:
            found.append(f"the steps in {kind}")
            continue
        for step in steps:
            for item in items:
                mine, other = (load_variables(path / kind, step, item) for path in (run_dir, expected))
                found += [f"{kind}/{step}: {name}" for name in _unequal(mine, other)]
    if _timeless(run_dir) != _timeless(expected):
        found.append("the rows of metrics")
    # Not its bytes: the library writes the metadata in any order.
    mine, other = (read_checkpoint(path / WEIGHTS) for path in (run_dir, expected))
    found += [f"{WEIGHTS}: {name}" for name in _unequal(mine.tensors, other.tensors)]
    if mine.metadata != other.metadata:
        found.append(f"{WEIGHTS}: its metadata")
    return found


def _unequal(tree: Any, other: Any) -> list[str]:
    """Names of the leaves that are not the same bits, or that only one of two trees has."""
    leaves, others = (
        {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(x)}
        for x in (tree, other)
    )

    def bits(arrays: dict[str, np.ndarray], name: str) -> Any:
        x = arrays.get(name)
        return None if x is None else (x.dtype, x.shape, x.tobytes())

    return [name for name in sorted(leaves | others) if bits(leaves, name) != bits(others, name)]


def _timeless(run_dir: Path) -> list[dict[str, Any]]:
    return [
        {key: x for key, x in row.items() if key not in CLOCKS}
        for row in read_rows(run_dir / "metrics.jsonl")
    ]
