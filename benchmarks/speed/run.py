"""Contenders take turns at a case; what comes out is kept in the device's file."""

import csv
import io
import os
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import hardware
from benchmarks.speed.cases import Case, contenders
from benchmarks.speed.contender import Contender, Interpreters
from train.workdir import write_atomically

RESULTS = Path(__file__).parents[1] / "results" / "speed"
COLUMNS = (
    *Case._fields, "contender", "ms", "ms_q1", "ms_q3", "images_per_second", "ratio", "ratio_q1", "ratio_q3",
    "rounds", "compile_seconds", "first_seconds", "peak_gib", "gflops", "device", "cpu", "cores", "jax",
    "error",
)  # fmt: skip
MOST_STEPS = 200  # of a round

Row = dict[str, Any]


def run(
    todo: Sequence[Case],
    only: Sequence[str],
    interpreters: Interpreters,
    *,
    rounds: int,
    round_seconds: float,
    at_once: int,
    case_seconds: float,
    timeout: float,
    deadline: float,
) -> Iterator[list[Row]]:
    """The rows of each case, ourselves first.

    Args:
        todo: the cases.
        only: contenders that take part beside flaxarch.
        interpreters: who runs where.
        rounds: of each case, at least three where they fit into `case_seconds`.
        round_seconds: which a contender's steps of one round are to fill.
        at_once: cases whose contenders are prepared at the same time; 0: one contender after the other, so
            that none is slowed by another's compilation.
        case_seconds: how long a case may be timed.
        timeout: seconds that a contender may take to answer.
        deadline: in `time.monotonic`; no case is begun after it.
    """
    step = max(1, at_once)
    for first in range(0, len(todo), step):
        if time.monotonic() > deadline:
            return
        groups = []
        for case in todo[first : first + step]:
            names = [name for name in contenders(case) if name == "flaxarch" or name in only]
            groups.append((case, names))
        prepared = _prepare(groups, interpreters, timeout, at_once > 0)
        try:
            for case, _ in groups:
                yield _time(prepared[case], rounds, round_seconds, case_seconds)
        finally:
            for contender in (c for group in prepared.values() for c in group):
                contender.close()


def _prepare(
    groups: list[tuple[Case, list[str]]], interpreters: Interpreters, timeout: float, together: bool
) -> dict[Case, list[Contender]]:
    def start(case: Case, name: str) -> Contender:
        contender = Contender(name, case, interpreters, timeout)
        contender.wait_ready()
        return contender

    with ThreadPoolExecutor(64 if together else 1) as pool:
        futures = {case: [pool.submit(start, case, name) for name in names] for case, names in groups}
    return {case: [future.result() for future in group] for case, group in futures.items()}


def _time(group: list[Contender], rounds: int, round_seconds: float, case_seconds: float) -> list[Row]:
    """Rounds of A B C A B C."""
    steps = {}
    for contender in group:
        seconds = [contender.round(1).get("seconds", 1.0) for _ in range(2)][-1]
        steps[contender.name] = min(MOST_STEPS, max(1, round(round_seconds / seconds)))
    times: dict[str, list[float]] = {contender.name: [] for contender in group}
    peaks: dict[str, float] = {}
    start = time.monotonic()
    for done in range(rounds):
        if done >= 3 and time.monotonic() - start > case_seconds:
            break
        for contender in group:
            answer = contender.round(steps[contender.name])
            if answer:
                times[contender.name].append(answer["seconds"] / steps[contender.name])
                peaks[contender.name] = answer["peak_bytes"] / 2**30
    return [_row(contender, times, peaks) for contender in group]


def _row(contender: Contender, times: dict[str, list[float]], peaks: dict[str, float]) -> Row:
    own, ours = times[contender.name], times["flaxarch"]
    row: Row = dict.fromkeys(COLUMNS, "")
    row |= contender.case._asdict() | {"contender": contender.name, "error": contender.error}
    row |= {"device": contender.about.get("device", ""), "cpu": hardware.cpu()}
    row |= {"cores": os.cpu_count(), "jax": version("jax")}
    if contender.error or not own:
        return row
    row["rounds"] = len(own)
    row["ms_q1"], row["ms"], row["ms_q3"] = (round(1000 * x, 4) for x in _quartiles(own))
    row["images_per_second"] = round(contender.case.batch / statistics.median(own), 2)
    if len(ours) == len(own):
        ratios = [theirs / mine for theirs, mine in zip(own, ours, strict=True)]
        row["ratio_q1"], row["ratio"], row["ratio_q3"] = (round(x, 3) for x in _quartiles(ratios))
    row |= {key: round(contender.about[key], 2) for key in ("compile_seconds", "first_seconds")}
    row["peak_gib"] = round(peaks[contender.name], 3)
    if contender.about.get("flops"):
        row["gflops"] = round(contender.about["flops"] / 1e9, 3)
    return row


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def path_of(row: Row) -> Path:
    """The file of a row's device."""
    return RESULTS / f"{re.sub('[^a-z0-9]+', '-', device_of(row).lower()).strip('-')}.csv"


def device_of(row: Row) -> str:
    """What a row was measured on, in words."""
    if row["device"] != "cpu":
        return row["device"]
    return f"{row['cores']} cores of {row['cpu']}" if row.get("cpu") else f"{row['cores']} CPU cores"


def read(path: Path) -> list[Row]:
    """The kept rows; numbers are numbers, what is missing is ""."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [{key: _number(x) for key, x in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def keep(rows: list[Row]) -> Path:
    """In the file of the device, in place of what it has of the same cases."""
    (ours, *_) = rows
    path = path_of(ours)
    key = lambda row: (*(row[field] for field in Case._fields), row["contender"])  # noqa: E731
    kept = {key(row): row for row in read(path)} | {key(row): row for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    out = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    out.writeheader()
    out.writerows(kept.values())
    write_atomically(path, text.getvalue())
    return path
