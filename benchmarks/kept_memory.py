"""Training and inference with memory given back after each call, and kept.

    python -m benchmarks.kept_memory [--keep] [NETWORK ...]

A training step is the trainer's, and inference is of a batch of 16; each with the native kernels and without,
both ways, in four processes that take turns: median of eight rounds after three calls, pages that the system
handed out in a call, and the most memory that the process had. `--keep` writes
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
from itertools import product
from pathlib import Path
from typing import Any, get_args

from benchmarks import hardware
from benchmarks.speed.cases import NETWORKS, Case, Mode
from flaxarch import ops

KEPT = Path(__file__).parent / "results" / "kept_memory.json"
DEFAULTS = ("resnet18", "resnet50", "mobilenet_100", "mobilenet_v2", "resnet110")
ROUNDS = 8


def main() -> None:
    """Measure each network both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", default=DEFAULTS, metavar="NETWORK")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    if unknown := sorted({*args.networks} - {*NETWORKS}):
        parser.error(f"{unknown[0]!r} is none of {', '.join(NETWORKS)}")
    rows = []
    for mode in get_args(Mode):
        for network in args.networks:
            for row in _in_turns(network, mode):
                rows.append(row)
                print(json.dumps(row), flush=True)
    if args.keep:
        kept = {"hardware": hardware.cores(), "jax": version("jax"), "rows": rows}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _in_turns(network: str, mode: Mode) -> list[dict[str, Any]]:
    """What each process says at its end, after rounds of A B C D, A B C D."""
    command = [sys.executable, "-c", "from benchmarks.kept_memory import answer; answer()", network, mode]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = []
    for kernels, memory in product(("without", "with"), ("given back", "kept")):
        processes.append(subprocess.Popen([*command, kernels, memory], **pipes))
        if not processes[-1].stdout.readline():
            sys.exit(1)  # it has said why
    for _ in range(ROUNDS):
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
    return [json.loads(process.communicate()[0]) for process in processes]


def answer() -> None:
    """What a process of its own does: a call for each line that it reads, and at the end what they took."""
    from benchmarks.speed.contenders import of_flaxarch

    network, mode, kernels, memory = sys.argv[1:]
    os.environ["FLAXARCH_KEEP_MEMORY"] = str(int(memory == "kept"))
    if memory == "kept" and not ops.keep_freed_memory():
        sys.exit("memory can't be kept here")
    batch = NETWORKS[network].cpu_training_batch if mode == "training" else 16
    with ops.use_cpu_kernels(kernels == "with"):
        prepared = of_flaxarch.prepare(Case(network, mode, batch, "float32"), "")  # pyright: ignore[reportArgumentType]
    prepared.run(3)
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        prepared.run(1)
        times.append(time.perf_counter() - start)
        print("done", flush=True)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    measured = {
        "network": network,
        "mode": mode,
        "kernels": kernels,
        "memory": memory,
        "batch": batch,
        "ms": round(1000 * statistics.median(times), 1),
        "pages": (usage.ru_minflt - before) // len(times),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }
    print(json.dumps(measured))


def table() -> str:
    """What is kept."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    lines = [
        f"{kept['hardware']}, jax {kept['jax']}: `python -m benchmarks.kept_memory`.",
        "",
        "| network | work | batch | kernels | memory | ms | pages a call | peak, GiB |",
        f"|{' --- |' * 8}",
    ]
    for row in kept["rows"]:
        named = (row[key] for key in ("network", "mode", "batch", "kernels", "memory", "ms"))
        cells = (*named, f"{row['pages']:,}", row["peak_gib"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
