"""The process of a contender, from the side that asks it for rounds."""

import contextlib
import json
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed import worker
from benchmarks.speed.cases import PEERS, Case

ROOT = Path(__file__).parents[2]


class Interpreters(NamedTuple):
    """By contender: the Python that has its library, and the file that it is to read, if any."""

    pythons: Mapping[str, str] = {}
    paths: Mapping[str, str] = {}

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "Interpreters":
        """Of NAME=PYTHON or NAME=PYTHON,FILE; torch_compile has torch's. Raises ValueError."""
        pythons, paths = {}, {}
        for text in texts:
            name, _, place = text.partition("=")
            python, _, path = place.partition(",")
            if name not in ("flaxarch", *PEERS):
                raise ValueError(f"{name!r} is none of the contenders {', '.join(PEERS)}")
            if python and shutil.which(python) is None:
                raise ValueError(f"{python}, named for {name}, is no program that can be run")
            if path and not Path(path).is_file():
                raise ValueError(f"{path}, named for {name}, is no file")
            if python:
                pythons[name] = python
            if path:
                paths[name] = path
        if "torch" in pythons:
            pythons.setdefault("torch_compile", pythons["torch"])
        return cls(pythons, paths)


class Contender:
    """A process that prepares a case, and then does rounds when it is asked to.

    `error` is "" until it fails, and then says why; a contender that failed answers nothing more.
    """

    def __init__(self, name: str, case: Case, interpreters: Interpreters, timeout: float):
        self.name, self.case = name, case
        self.error = ""
        self.about: dict[str, Any] = {}
        self._timeout = timeout
        self._text = ""
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, closed by `close`
        spec = {"case": case._asdict(), "contender": name, "path": interpreters.paths.get(name, "")}
        python = interpreters.pythons.get(name, sys.executable)
        self._process = subprocess.Popen(
            [python, "-m", worker.__name__, json.dumps(spec | {"started": time.time()})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )

    def wait_ready(self) -> None:
        """Until it is prepared, or has failed."""
        self.about = self._answer()

    def round(self, steps: int) -> dict[str, Any]:
        """Seconds of so many steps, and the peak of memory; {} where it failed."""
        if self.error:
            return {}
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.write(f"{steps}\n".encode())
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):  # what it was to read
            self._process.communicate()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while True:
                *lines, self._text = self._text.split("\n")
                for i, line in enumerate(lines):
                    if line.startswith(worker.MARK):
                        self._text = "\n".join([*lines[i + 1 :], self._text])
                        return json.loads(line.removeprefix(worker.MARK))
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    self.error = f"no answer in {self._timeout:.0f} s"
                    self._process.kill()
                    return {}
                more = os.read(self._process.stdout.fileno(), 1 << 16)
                if not more:
                    self.error = self._last_words()
                    return {}
                self._text += more.decode(errors="replace")

    def _last_words(self) -> str:
        """The line of its exception."""
        code = self._process.wait()
        self._log.seek(0)
        errors = re.findall(r"^[\w.]*(?:Error|Exception|Exit|Interrupt)\b.*", self._log.read(), re.MULTILINE)
        return (errors[-1] if errors else f"ended with code {code}")[:200]
