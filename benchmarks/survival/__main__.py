"""Makes the runs, keeps what happened in `benchmarks/results/survival.json`, and writes the page."""

import argparse
import json
import os
import platform
import random
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import benchmarks.survival
from benchmarks.survival.laboratory import ANY, FLAGS, IN_SAVE, TERM, Laboratory, Plan
from benchmarks.survival.page import PAGE, RESULTS, page

LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
SEED = 0
PLANS = {
    "a save every 40 steps": Plan(400, 40, {ANY: 12, IN_SAVE: 4, TERM: 3}),
    "a save every 4 steps": Plan(200, 4, {ANY: 6, IN_SAVE: 10, TERM: 2}),
}


def experiment(name: str, plan: Plan, folder: Path, rng: random.Random) -> dict[str, Any]:
    """The record of a plan."""
    folder.mkdir()
    laboratory = Laboratory(plan, folder, rng)
    expected = laboratory.unbroken()
    stops = [stop for stop, number in plan.stops.items() for _ in range(number)]
    rng.shuffle(stops)
    survivors = []
    while stops:
        survivors.append(laboratory.survive(f"stopped{len(survivors)}", expected, stops))
        print(name, survivors[-1].differences, survivors[-1].unreadable, flush=True)
    return {
        "steps": plan.steps,
        "save every": plan.save_every,
        "seconds to the first step": round(laboratory.startup, 1),
        "runs": [
            {
                "differences": survivor.differences,
                "unreadable": survivor.unreadable,
                "lives": [asdict(life) | {"lost": life.lost} for life in survivor.lives],
            }
            for survivor in survivors
        ],
    }


def main() -> None:
    """Run both plans, keep the counts and write the page; or write the page alone."""
    parser = argparse.ArgumentParser(
        description=benchmarks.survival.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="write the page of the record that there is")
    parser.add_argument("--seed", type=int, default=SEED, help="of the moments")
    args = parser.parse_args()
    if not args.page:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            plans = {
                name: experiment(name, plan, Path(folder) / str(number), random.Random(args.seed + number))
                for number, (name, plan) in enumerate(PLANS.items())
            }
        versions = {"Python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
        record = {
            "command": f"python -m train {' '.join(FLAGS)}",
            "seed": args.seed,
            "minutes": round((time.monotonic() - began) / 60),
            "hardware": f"{os.cpu_count()} CPU cores, shared with other work",
            "versions": versions,
            "plans": plans,
        }
        RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
