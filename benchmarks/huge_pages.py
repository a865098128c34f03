"""Steps on CPU with memory in pages of 4 KiB, and in huge ones where glibc asks Linux for them.

    python -m benchmarks.huge_pages [--python torch=PYTHON] [--networks NAME ...] [--keep]

Ourselves and torch, each with and without, in turns; training at the batches of `benchmarks.speed`, inference
at 16. Medians of `--rounds` rounds. `--keep` writes `benchmarks/results/huge_pages.json`, a table of
`docs/speed.md`.
"""

import argparse
import json
import os
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import NETWORKS, Case, cases
from benchmarks.speed.contender import Contender, Interpreters

KEPT = Path(__file__).parent / "results" / "huge_pages.json"
SWITCH = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def main() -> None:
    """Time all networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[], metavar="NAME=PYTHON", help="torch's")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet50", "mobilenet_v2"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    interpreters = Interpreters.parse(args.python)
    rows = []
    for network in args.networks:
        for case in cases(network, on_cpu=True):
            if case.dtype == "float32" and (case.mode == "training" or case.batch > 1):
                rows += measure(case, interpreters, args.rounds)
    if args.keep:
        kept = {"hardware": f"{os.cpu_count()} CPU cores", "jax": version("jax"), "rows": rows}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def measure(case: Case, interpreters: Interpreters, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a step, of each contender that runs."""
    names = ["flaxarch", *(["torch"] if "torch" in interpreters.pythons else [])]
    rows = []
    for name in names:
        both = [Contender(name, case, interpreters, 900.0, switch) for switch in ({}, SWITCH)]
        for contender in both:
            contender.wait_ready()
            contender.round(1)
        times = [[contender.round(1)["seconds"] for contender in both] for _ in range(rounds)]
        for contender in both:
            contender.close()
        small, huge = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        row = {"case": str(case), "contender": name, "small_ms": round(small, 1), "huge_ms": round(huge, 1)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def table() -> str:
    """What is kept."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    lines = [
        f"{kept['hardware']}, jax {kept['jax']}, ms: `python -m benchmarks.huge_pages`.",
        "",
        "| work | of | 4 KiB | huge | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in kept["rows"]:
        small, huge = row["small_ms"], row["huge_ms"]
        lines.append(f"| {row['case']} | {row['contender']} | {small:,} | {huge:,} | {small / huge:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
