"""Training runs that are kept: `benchmarks/results/NAME/`, and the README's table of them.

    python -m benchmarks.runs keep WORKDIR NAME --hardware "2 CPU cores" [--remark "..."]
    python -m benchmarks.runs table

`keep` copies a finished run's configuration and metrics, with the versions of the libraries installed here.
`table` writes the table between its marks in README.md.
"""

import argparse
import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from train.metrics import read_rows
from train.report import given_flags

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
LIBRARIES = ("jax", "flax", "optax")
MARKS = re.compile(r"(<!-- runs -->\n).*?(<!-- end of runs -->)", re.DOTALL)


def keep(workdir: Path, name: str, hardware: str, remark: str) -> None:
    """Copy what a run wrote, less its checkpoints and where its data lay."""
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(workdir / "metrics.jsonl", folder / "metrics.jsonl")
    config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    config["data_dir"] = None
    if config.get("weights"):
        config["weights"] = Path(config["weights"]).name
    _write(folder / "config.json", config)
    versions = {library: version(library) for library in LIBRARIES}
    about = {"hardware": hardware, "remark": remark, "versions": versions}
    _write(folder / "about.json", about)


def table() -> str:
    """A row for each run: accuracy at the end, and what it took."""
    lines = [
        "| run | test accuracy by epoch, % | TFLOP | images/s | hours | hardware | versions | flags |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(row(path.parent) for path in sorted(RESULTS.glob("*/config.json"))),
    ]
    return "\n".join(lines) + "\n"


def row(folder: Path) -> str:
    """One run, from its files."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    rows = read_rows(folder / "metrics.jsonl")
    curve = accuracies(rows)
    rates = [row["images_per_second"] for row in rows if row.get("images_per_second")]
    hours = rows[-1]["seconds"] / 3600
    flops = [row["flops"] / 1e12 for row in rows if row.get("flops")]
    spent = f"{flops[-1]:.3g}" if flops else ""  # of all updates, by XLA's count
    versions = ", ".join(f"{library} {number}" for library, number in about["versions"].items())
    hardware = about["hardware"] + (f" ({about['remark']})" if about["remark"] else "")
    name, rate = f"{config['model']}, {folder.name}", f"{median(rates):.0f}"
    flags = " ".join(f"`{flag}`" for flag in given_flags(config) if not flag.startswith("--save-every "))
    cells = (name, curve, spent, rate, f"{hours:.2f}", hardware, versions, flags)
    return f"| {' | '.join(cells)} |"


def accuracies(rows: list[dict[str, Any]]) -> str:
    """Of all evaluations, in %: on test images, or as it says on those that were held back for validation."""
    parts: dict[str, list[str]] = {}
    for row in rows:
        if row["kind"] in ("eval", "test"):
            parts.setdefault(row.get("of", "test"), []).append(f"{100 * row['accuracy']:.2f}")
    if parts.keys() == {"test"}:
        return ", ".join(parts["test"])
    return "; ".join(f"{of}: {', '.join(values)}" for of, values in parts.items())


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Keep a run, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep")
    keeping.add_argument("workdir", type=Path)
    keeping.add_argument("name")
    keeping.add_argument("--hardware", required=True)
    keeping.add_argument("--remark", default="")
    commands.add_parser("table")
    args = parser.parse_args()
    if args.command == "keep":
        keep(args.workdir, args.name, args.hardware, args.remark)
    README.write_text(MARKS.sub(rf"\1{table()}\2", README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
