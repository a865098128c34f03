"""All claims, and what is kept of their runs."""

import csv
import importlib
import json
import os
import pkgutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.claims import statements
from benchmarks.claims.claim import Claim, Places, Verdict

RESULTS = Path(__file__).parents[1] / "results" / "claims"
LIBRARIES = ("jax", "jaxlib", "flax", "optax")


def _claims() -> dict[str, Claim]:
    """Each file's CLAIM under its name, and its FULL, the same at the paper's size, with "_full" behind."""
    found = {}
    for file in pkgutil.iter_modules(statements.__path__):
        if not file.name.startswith("_"):
            module = importlib.import_module(f"{statements.__name__}.{file.name}")
            found[file.name] = module.CLAIM
            if hasattr(module, "FULL"):
                found[f"{file.name}_full"] = module.FULL
    return found


CLAIMS = _claims()


def run(name: str, places: Places, *, anew: bool = False) -> Iterator[str]:
    """Run the seeds of a claim that are not kept; gives a line for each, after it is kept."""
    claim = CLAIMS[name]
    missing = [place for place in claim.needs if getattr(places, place) is None]
    if missing:
        flags = " ".join(f"--{place.replace('_', '-')} DIR" for place in missing)
        raise SystemExit(f"{name} needs {flags}")
    kept = {"seeds": {}} if anew else read(name) or {"seeds": {}}
    for seed in range(claim.seeds):
        if str(seed) in kept["seeds"]:
            yield f"{name}: seed {seed} is kept"
            continue
        start = time.perf_counter()
        values, curves = claim.measure(seed, places)
        seconds = round(time.perf_counter() - start, 1)
        kept["seeds"][str(seed)] = {
            "values": {key: float(x) for key, x in values.items()},
            "curves": {key: [float(x) for x in curve] for key, curve in curves.items()},
            "seconds": seconds,
            **_machine(),
        }
        write(name, kept)
        yield f"{name}: seed {seed}, {seconds} s"


def verdicts(name: str, kept: dict[str, Any]) -> list[Verdict]:
    """How the checks of a claim came out, over the seeds that are kept."""
    values = [seed["values"] for seed in kept["seeds"].values()]
    return [check.verdict(values) for check in CLAIMS[name].checks]


def read(name: str) -> dict[str, Any] | None:
    """What is kept of a claim: values, curves, seconds and machine of each seed; None: nothing."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    curves: dict[str, dict[str, list[float]]] = {}
    with open(RESULTS / f"{name}.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            curves.setdefault(row["seed"], {}).setdefault(row["curve"], []).append(float(row["y"]))
    for seed, entry in kept["seeds"].items():
        entry["curves"] = curves.get(seed, {})
    return kept


def write(name: str, kept: dict[str, Any]) -> None:
    """Values to JSON, curves to CSV."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    entries = kept["seeds"]
    with open(RESULTS / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("seed", "curve", "index", "y"))
        for seed, entry in entries.items():
            for curve, values in entry["curves"].items():
                rows.writerows((seed, curve, i, f"{y:.6g}") for i, y in enumerate(values))
    without = {
        seed: {key: x for key, x in entry.items() if key != "curves"} for seed, entry in entries.items()
    }
    text = json.dumps({"seeds": without}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _machine() -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    kind = f"{os.cpu_count()} CPU cores" if device.platform == "cpu" else device.device_kind
    return {"hardware": kind, "versions": {library: version(library) for library in LIBRARIES}}
