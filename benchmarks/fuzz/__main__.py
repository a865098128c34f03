"""Loads mutated files of each format, and keeps the counts in `benchmarks/results/fuzz.json`."""

import argparse
import json
import platform
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import benchmarks.fuzz
from benchmarks.fuzz.cases import FORMATS, SEED, write
from benchmarks.fuzz.judge import Watch, load
from benchmarks.fuzz.page import PAGE, RESULTS, page
from benchmarks.fuzz.watch import outcomes

COUNT = 2000
LIBRARIES = ("jax", "flax", "numpy", "h5py", "safetensors")
SOUND = ("equal", "other values", "refused")


def run(fmt: str, count: int, folder: Path) -> dict[str, Any]:
    """The counts of one format."""
    kinds, places, mutations = Counter(), Counter(), Counter()
    slowest, peak = 0.0, 0
    for number, case, outcome in outcomes(fmt, range(count), folder):
        kinds[outcome.kind] += 1
        mutations[case.mutation] += 1
        places[outcome.place] += bool(outcome.place)
        slowest, peak = max(slowest, outcome.seconds), max(peak, outcome.peak)
        if outcome.kind not in SOUND or outcome.seconds > 3:
            print(f"{fmt} {number} ({case.mutation}), {outcome.seconds:.1f} s, {outcome.kind}:", flush=True)
            print(f"    {outcome.message[:600]}", flush=True)
    return {
        "files": count,
        **{kind: kinds[kind] for kind in SOUND},
        "places": dict((+places).most_common()),
        "failures": {kind: n for kind, n in kinds.items() if kind not in SOUND},
        "executed": kinds["executed"],
        "slowest seconds": round(slowest, 2),
        "peak MiB": round(peak / 2**20, 1),
        "mutations": dict(sorted(mutations.items())),
    }


def main() -> None:
    """Run the formats that the command line names, or all, and keep the counts of those run whole."""
    parser = argparse.ArgumentParser(
        description=benchmarks.fuzz.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"of {', '.join(map(repr, FORMATS))}")
    parser.add_argument("--count", type=int, default=COUNT, help="of files of each format")
    parser.add_argument("--only", type=int, help="load one file here, and show how it ends")
    args = parser.parse_args()
    if unknown := set(args.formats) - FORMATS.keys():
        parser.error(f"no such formats: {unknown}")

    with tempfile.TemporaryDirectory() as folder:
        for fmt in args.formats or FORMATS:
            if args.only is not None:
                case = write(fmt, args.only, Path(folder) / "case")
                print(case.mutation, load(case, Watch()))
                continue
            counts = run(fmt, args.count, Path(folder))
            print(fmt, {key: x for key, x in counts.items() if key != "mutations"}, flush=True)
            if args.count == COUNT:
                keep(fmt, counts)


def keep(fmt: str, counts: dict[str, Any]) -> None:
    """Put the counts of a format into the record, and write its page."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["formats"] if RESULTS.exists() else {}
    kept[fmt] = counts
    versions = {"Python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
    formats = {name: kept[name] for name in FORMATS if name in kept}
    record = {"seed": SEED, "versions": versions, "formats": formats}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
