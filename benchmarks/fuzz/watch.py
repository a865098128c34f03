"""Runs cases in a process of their own, which is ended where it takes too long or too much memory."""

import json
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fuzz.cases import Case, write
from benchmarks.fuzz.judge import MOST_BYTES, MOST_SECONDS, Outcome, Watch, load, trace_once, warm

_TICK = 0.2  # seconds between looks at the process's memory
_GRACE = 5.0  # seconds beyond the limit: for judging what was loaded


class Worker:
    """A process that loads one file after the other."""

    def __init__(self):
        command = [sys.executable, "-m", "benchmarks.fuzz.watch"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.replies = self.process.stdin, self.process.stdout
        self.base = json.loads(self.replies.readline())

    def send(self, case: Case) -> None:
        """Begin a case."""
        self.requests.write(json.dumps([str(case.path), *case[1:]]) + "\n")
        self.requests.flush()

    def outcome(self) -> Outcome:
        """How it ended; after "crash", "hang" or "too much memory" the process is gone."""
        start = time.perf_counter()
        while True:
            if select.select([self.replies], [], [], _TICK)[0]:
                line = self.replies.readline()
                if line:
                    return Outcome(**json.loads(line))
                return self._ended("crash", f"exit status {self.process.wait()}", start)
            if time.perf_counter() - start > MOST_SECONDS + _GRACE:
                return self._ended("hang", "", start)
            if self._memory() > self.base + 1.5 * MOST_BYTES:
                return self._ended("too much memory", "", start)

    def _ended(self, kind: str, message: str, start: float) -> Outcome:
        self.process.kill()
        self.process.wait()
        return Outcome(kind, "", message, time.perf_counter() - start, 0, [])

    def _memory(self) -> int:
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return 0
        match = re.search(r"VmRSS:\s+(\d+)", status)
        return int(match[1]) * 1024 if match else 0

    def close(self) -> None:
        """End the process."""
        self.requests.close()
        self.process.wait()


def outcomes(fmt: str, numbers: range, folder: Path) -> Iterator[tuple[int, Case, Outcome]]:
    """Write and load the cases of a format; a case is written while the one before is loaded."""
    worker = Worker()
    cases = ((number, write(fmt, number, folder / str(number))) for number in numbers)
    waiting = next(cases, None)
    while waiting is not None:
        number, case = waiting
        worker.send(case)
        waiting = next(cases, None)
        outcome = worker.outcome()
        yield number, case, outcome
        for file in case.path.parent.iterdir():
            file.unlink()
        case.path.parent.rmdir()
        if worker.process.poll() is not None:
            worker = Worker()
    worker.close()


def _serve() -> None:
    """Load what is asked for, line by line."""
    trace_once()
    with tempfile.TemporaryDirectory() as folder:
        warm(Path(folder))
    watch = Watch()
    base = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    print(int(base[1]) * 1024 if base else 0, flush=True)
    for line in sys.stdin:
        path, *rest = json.loads(line)
        outcome = load(Case(Path(path), *rest), watch)
        print(json.dumps(outcome._asdict()), flush=True)


if __name__ == "__main__":
    _serve()
