"""Training steps with the native kernels, with memory given back after each step and with memory kept.

    python -m benchmarks.kept_memory [--keep] [NETWORK ...]

Each step is the trainer's, in a process of its own: median of eight after three, pages that the system
handed out in a step, and the most memory that the process had. `--keep` writes
`benchmarks/results/kept_memory.json`, in `docs/speed.md`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import NETWORKS, Case
from train.memory import keep_freed_memory

KEPT = Path(__file__).parent / "results" / "kept_memory.json"
DEFAULTS = ("resnet18", "resnet50", "mobilenet_v2", "resnet110")


def main() -> None:
    """Measure each network both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", default=DEFAULTS, metavar="NETWORK")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    if unknown := sorted({*args.networks} - {*NETWORKS}):
        parser.error(f"{unknown[0]!r} is none of {', '.join(NETWORKS)}")
    rows = []
    for network in args.networks:
        for memory in ("given back", "kept"):
            command = [sys.executable, "-c", "from benchmarks.kept_memory import step; step()"]
            done = subprocess.run([*command, network, memory], stdout=subprocess.PIPE, text=True, check=True)
            rows.append({"network": network, "memory": memory, **json.loads(done.stdout.splitlines()[-1])})
            print(json.dumps(rows[-1]), flush=True)
    if args.keep:
        kept = {"hardware": f"{os.cpu_count()} CPU cores", "jax": version("jax"), "rows": rows}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def step() -> None:
    """What a process of its own does: prints one line."""
    network, memory = sys.argv[1:]
    if memory == "kept" and not keep_freed_memory():
        sys.exit("memory can't be kept here")
    print(json.dumps(_measure(network)))


def _measure(network: str) -> dict[str, Any]:
    from benchmarks.speed.contenders import of_flaxarch
    from flaxarch import ops

    batch = NETWORKS[network].cpu_training_batch
    with ops.use_cpu_kernels():
        prepared = of_flaxarch.prepare(Case(network, "training", batch, "float32"), "")
    prepared.run(3)
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    for _ in range(8):
        start = time.perf_counter()
        prepared.run(1)
        times.append(time.perf_counter() - start)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "batch": batch,
        "ms": round(1000 * statistics.median(times)),
        "pages": (usage.ru_minflt - before) // len(times),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def table() -> str:
    """What is kept."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    lines = [
        f"{kept['hardware']}, jax {kept['jax']}: `python -m benchmarks.kept_memory`.",
        "",
        "| network | batch | memory | step, ms | pages a step | peak, GiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in kept["rows"]:
        cells = (row["network"], row["batch"], row["memory"], row["ms"], f"{row['pages']:,}", row["peak_gib"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
