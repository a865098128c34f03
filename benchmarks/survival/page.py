"""The page of the last experiment, `docs/survival.md`."""

import json
from pathlib import Path
from typing import Any

from benchmarks.survival.laboratory import AFTER_START, OF_A_SAVE, TERM

RESULTS = Path(__file__).parents[1] / "results" / "survival.json"
PAGE = Path(__file__).parents[2] / "docs" / "survival.md"

HEADING = """# Runs that are killed

Written by `python -m benchmarks.survival`, from `benchmarks/results/survival.json`. The run is

    {command}

with crops, stochastic depth, momentum, batch statistics and a moving average. It is made once in one go, and
then again in processes that are stopped and started anew; all that with few saves, and with many. A stop is

- SIGKILL at *any moment*, drawn evenly from the launch to {after:g} seconds after the usual time of the first
  step;
- SIGKILL *in a save*: from a random moment on, the next folder of a half-written checkpoint that appears in
  `last/` or `best/` is waited for, and the process killed up to {save:g} seconds later. The kill counts as
  inside the save if that folder still has its temporary name once the process is dead: Orbax renames it when
  all is written. Otherwise it counts as any other, and another one is aimed;
- *SIGTERM* at a random moment, after which the run is to save the step that it is in, and to exit with
  status 0.

*Steps lost* is the last step in the rows of metrics (each has one), less the step of the newest checkpoint,
from which the next process goes on. Checkpoints are written behind training, and one that is not whole does
not count: a kill inside a save can cost the steps since the save before it and those made during this one.

After each stop the two newest checkpoints and the best one are read whole. *Unreadable* counts those that are
not, and those that the trainer itself says so of. At the end the run is compared with that in one go, bit for
bit: parameters, batch statistics, their moving averages, the optimizer's state and the sums of metrics in
`last/`, the networks in `best/`, `best.safetensors`, and the rows of metrics but for what a clock says.

The signals end processes; that the machine itself loses power was not tried.
"""


def page() -> str:
    """The whole page."""
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [HEADING.format(command=record["command"], after=AFTER_START, save=OF_A_SAVE)]
    columns = ("", "stop", "times", "steps lost: mean", "most", "exit status")
    lines += [_row(columns), _row(("---",) * len(columns))]
    for name, plan in record["plans"].items():
        lives = [life for run in plan["runs"] for life in run["lives"]]
        killed = [x for x in lives if x["stop"] != TERM]
        for label, chosen in (
            ("SIGKILL inside a save", [x for x in killed if x["half_written"]]),
            ("SIGKILL at other moments", [x for x in killed if not x["half_written"]]),
            ("SIGTERM", [x for x in lives if x["stop"] == TERM]),
        ):
            lost = [x["lost"] for x in chosen]
            status = ", ".join(str(x) for x in sorted({x["status"] for x in chosen}))
            lines.append(_row((name, label, len(chosen), f"{sum(lost) / len(lost):.1f}", max(lost), status)))
    columns = ("", "steps", "stopped runs", "processes", "unreadable", "equal to the run in one go")
    lines += ["", _row(columns), _row(("---",) * len(columns))]
    for name, plan in record["plans"].items():
        equal = sum(not run["differences"] for run in plan["runs"])
        processes = sum(len(run["lives"]) + 1 for run in plan["runs"])
        unreadable = sum(len(run["unreadable"]) for run in plan["runs"])
        number = len(plan["runs"])
        lines.append(_row((name, plan["steps"], number, processes, unreadable, f"{equal} of {number}")))
    lines += ["", "Every stop, in order:", ""]
    columns = ("", "signal at", "after, s", "last step", "goes on from", "lost", "half-written")
    lines += [_row(columns), _row(("---",) * len(columns))]
    for name, plan in record["plans"].items():
        for number, run in enumerate(plan["runs"], start=1):
            for x in run["lives"]:
                half = ", ".join(f"`{path}`" for path in x["half_written"])
                cells = (x["stop"], f"{x['seconds']:.1f}", x["step"], x["kept"], x["lost"], half)
                lines.append(_row((f"{name}, run {number}", *cells)))
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    where = f"{record['minutes']} minutes on {record['hardware']}"
    lines += ["", f"Seed {record['seed']} of the moments; {where}; {versions}.", ""]
    return "\n".join(lines)


def _row(cells: tuple[Any, ...]) -> str:
    return "| " + " | ".join(str(x) for x in cells) + " |"
