"""Runs every recipe for some steps on small real data, and writes the page of all recipes.

    python -m benchmarks.recipes run --mnist DIR --fashion-mnist DIR --cifar10 DIR --folder DIR [NAME ...]
    python -m benchmarks.recipes table

`run` takes the recipe as it is, but for the flags in SMALLER, a warm-up within its steps, and the folders;
each is a process of its own. It writes `benchmarks/results/recipes.json`. `table` writes `docs/recipes.md`
from that file and from `train/recipes.py`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from train.metrics import read_rows
from train.recipes import RECIPES, recipe_config

KEPT = Path(__file__).parent / "results" / "recipes.json"
PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
STEPS = 20

# So that two cores take a minute or two for it: images in an update, and their size.
SMALLER: dict[str, dict[str, Any]] = {
    "lin2014_nin": {"batch_size": 32},
    "he2015_cifar": {"batch_size": 32},
    "he2016_preact": {"batch_size": 16},
    "huang2016_stochastic_depth": {"batch_size": 16},
    "zagoruyko2016_wrn": {"batch_size": 8},
    "huang2017_densenet": {"batch_size": 16},
    "jordan2024_airbench94": {"batch_size": 128},
    "simonyan2015_vgg": {"batch_size": 4, "image_size": 96},
    "szegedy2015_googlenet": {"batch_size": 4},
    "szegedy2016_inception": {"batch_size": 4},
    "torchvision_2021": {"batch_size": 8, "image_size": 96},
    "timm_a1": {"batch_size": 12, "image_size": 96},
    "timm_a2": {"batch_size": 12, "image_size": 96},
    "timm_a3": {"batch_size": 8, "image_size": 96},
}


def main() -> None:
    """Run recipes, or write their page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="some steps of each recipe")
    folders = ("mnist", "fashion_mnist", "cifar10", "folder")
    for data in folders:
        runs.add_argument(f"--{data.replace('_', '-')}", type=Path, help=f"where the files of {data} lie")
    runs.add_argument("names", nargs="*", metavar="NAME")
    commands.add_parser("table", help="docs/recipes.md")
    args = parser.parse_args()
    if args.command == "table":
        PAGE.write_text(page(), encoding="utf-8")
        return
    places = {data: getattr(args, data) for data in folders}
    for name in args.names or RECIPES:
        found = run(name, places[recipe_config(name).data] if name != "digits" else None)
        print(
            f"{name}: loss {found['losses'][0]:.3f} -> {found['losses'][-1]:.3f}, {found['seconds']} s",
            flush=True,
        )
        kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
        kept = {key: x for key, x in {**kept, name: found}.items() if key in RECIPES}
        KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def run(name: str, data_dir: Path | None) -> dict[str, Any]:
    """The losses of a recipe's first steps, the loss of the evaluation that follows, and the time."""
    changes = {"steps": STEPS, **SMALLER.get(name, {})}
    if recipe_config(name).warmup_epochs:
        changes["warmup_epochs"] = 0.001  # less than a step: the run has no room for the recipe's
    with tempfile.TemporaryDirectory() as folder:
        given = {**changes, "workdir": folder, "log_every": 1, "data_dir": data_dir}
        flags = [f"--{key.replace('_', '-')}={x}" for key, x in given.items() if x is not None]
        start = time.perf_counter()
        command = [sys.executable, "-m", "train", f"--recipe={name}", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
        seconds = round(time.perf_counter() - start)
        rows = read_rows(Path(folder) / "metrics.jsonl")
    losses = [round(row["loss"], 4) for row in rows if row["kind"] == "train"]
    evaluated = [round(row["loss"], 4) for row in rows if row["kind"] == "eval"]
    return {"changes": changes, "losses": losses, "test_loss": evaluated[-1], "seconds": seconds}


def page() -> str:
    """All recipes: where each is from, what it came to there, and its first steps here."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    lines = [
        "# Recipes",
        "",
        "`python -m train --recipe NAME --data-dir DIR` trains as published; other flags given stand.",
        "Results are the publications' own, none of them measured here. The last columns show that each",
        "recipe runs: its loss, with smoothing, mixing and auxiliary heads, at step 1 and",
        f"{STEPS} on small real data,",
        "with the flags changed that are named. The rates are the recipes', for larger batches: a loss",
        "may rise. Written by `python -m benchmarks.recipes`.",
        "",
        "| recipe | network | source | published result | what is otherwise here | trial | loss |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, recipe in RECIPES.items():
        found = kept.get(name)
        changes, losses = "not run", ""
        if found is not None:
            changes = " ".join(f"`--{key.replace('_', '-')} {x}`" for key, x in found["changes"].items())
            losses = f"{found['losses'][0]:.2f} → {found['losses'][-1]:.2f}"
        cells = (
            name,
            recipe.flags["model"],
            recipe.source,
            recipe.published,
            recipe.differs,
            changes,
            losses,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
