"""The page `docs/speed.md` and a plot for each device, from what is kept."""

import math
from pathlib import Path
from typing import Any

from benchmarks import batch_norm, compilation, convolutions, kept_memory, precision
from benchmarks.speed import aims
from benchmarks.speed.cases import NETWORKS, PEERS
from benchmarks.speed.run import RESULTS, Row, device_of, read
from train.metrics import peak_flops

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOTS = DOCS / "speed.md", DOCS / "speed"
HEADING = """# Speed

Networks beside the same ones elsewhere: torch in channels-last layout, eager and by `torch.compile`; Keras
3 on JAX; the ResNets of Flax's ImageNet example and of flaxmodels; and ourselves with the native kernels of
the extra `cpu`. A contender is a process of its own; they take turns, A B C A B C. Under a contender's name
stands its time divided by ours, so that above 1 we are faster: the median over rounds of the quotient of two
times of the same round, and its quartiles. `ms` is our median time of a step and its quartiles; training is
the trainer's own step, with SGD and momentum; ours are processes that keep their memory on a CPU, as those of
the commands. MFU is the share of the device's bfloat16 peak that the operations of a step, as XLA
counts them before it compiles, make of its time. Compilation and the time from the start of the process to
the first step's end are seconds; where contenders were prepared side by side, these are of a busy machine.
Peak memory is the device's, on a CPU the process's.

    python -m benchmarks.speed run --python torch=PYTHON keras=PYTHON flax_example=PYTHON,models.py
    python -m benchmarks.speed report

"""
# Of a device's file.
REMARKS = {
    "2-cpu-cores": [
        "A CPU that was not named, and what we had then: memory was kept in training with the native kernels",
        "alone, pools and sums were slower, and gradients were computed anew where they are kept now.",
    ],
    "2-cores-of-amd-epyc-family-26-model-2": [
        "Training in float32, and the inference in float32 at 16 that has no torch.compile beside it, are of",
        "today's forms. The others were measured before: pools and sums were slower, gradients were computed",
        "anew where they are kept now, and memory was kept with the native kernels alone.",
    ],
}
AIMS = """### What was aimed at

In float32, as quotients of times of the same run: how many times as fast as the other. `of` counts the cases.
"""
COMPILATION = """## Compilation against depth

Units of one shape in a loop over stacked variables (`scan=True`) beside units written out: a training step
of pre-activation bottlenecks.
"""
CONVOLUTIONS = """## Forms of a convolution on CPU

The dense 3x3 and its gradients: our form, JAX's own, and others. Ours reads its operands in a pass of its own
here, which in a network is part of what makes them.
"""
BATCH_NORM = """## Forms of batch norm's sums on CPU

Both sums over all pixels that a pass of batch norm takes.
"""
MEMORY = """## Memory kept between steps

Training steps and inference on CPU, where the system clears the memory of each anew, and where the process
keeps it, as the commands' do.
"""
PRECISION = """## How exact float32 and bfloat16 are

Errors of the logits of 16 random images against float64 on the same device, ‖x − y‖ / ‖y‖, with random
weights and batch norm over the batch: `python -m benchmarks.precision`. On recent NVIDIA GPUs JAX computes
float32 products in TensorFloat-32; `jax.config.update("jax_default_matmul_precision", "highest")` computes
them in float32, which equality with the originals asks for.
"""


def write() -> None:
    """The page and its plots."""
    paths = sorted(RESULTS.glob("*.csv"))
    for path in paths:
        _plot(path)
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    parts = [HEADING]
    for path in sorted(RESULTS.glob("*.csv")):
        parts += [_section(path), ""]
    parts += [COMPILATION, compilation.table(), CONVOLUTIONS, convolutions.table()]
    parts += [BATCH_NORM, batch_norm.table(), MEMORY, kept_memory.table()]
    return "\n".join([*parts, PRECISION, precision.table()])


def _section(path: Path) -> str:
    rows = [row for row in read(path) if row["network"] in NETWORKS]
    (first, *_) = [row for row in rows if row["contender"] == "flaxarch"]
    on_cpu = first["device"] == "cpu"
    about = " ".join([f"jax {first['jax']}.", *REMARKS.get(path.stem, [])])
    lines = [f"## {device_of(first)}", "", about, "", f"![Ratios](speed/{path.stem}.png)", ""]
    seen = {row["contender"] for row in rows}
    peers = [name for name in PEERS if name in seen]
    shares = [] if on_cpu else ["MFU"]
    heads = ["network", "work", "ms", "images/s", *shares, *(PEERS[p] for p in peers), "compilation", "first"]
    lines += [f"| {' | '.join([*heads, 'GiB'])} |", f"|{' --- |' * (len(heads) + 1)}"]
    order = list(NETWORKS)
    key = lambda row: (row["mode"], row["dtype"], row["batch"], order.index(row["network"]))  # noqa: E731
    for ours in sorted((row for row in rows if row["contender"] == "flaxarch"), key=key):
        lines.append(_line(ours, _same_case(rows, ours), peers, bool(shares)))
    failed = sorted(
        {(PEERS[r["contender"]], r["network"], r["error"].partition(". ")[0]) for r in rows if r["error"]}
    )
    if failed:
        lines += ["", *(f"{who} did not run {network}: `{error}`  " for who, network, error in failed)]
    if on_cpu:
        lines += ["", AIMS, aims.table(rows)]
    return "\n".join(lines)


def _same_case(rows: list[Row], ours: Row) -> dict[str, Row]:
    fields = ("network", "mode", "batch", "dtype")
    return {row["contender"]: row for row in rows if all(row[f] == ours[f] for f in fields)}


def _line(ours: Row, case: dict[str, Row], peers: list[str], with_share: bool) -> str:
    cells: list[str] = [ours["network"], f"{ours['mode']}, {ours['batch']}, {ours['dtype']}"]
    cells += [f"{ours['ms']:.4g} ({ours['ms_q1']:.4g} to {ours['ms_q3']:.4g})"]
    rate = ours["images_per_second"]
    cells.append(f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}")
    if with_share:
        peak = peak_flops(str(ours["device"])) or math.inf
        operations = float(ours["gflops"] or 0) * 1e9 if ours["dtype"] == "bfloat16" else 0.0
        share = operations / (ours["ms"] / 1000) / peak
        cells.append(f"{share:.0%}" if share else "")
    cells += [_ratio(case.get(peer)) for peer in peers]
    cells += [f"{ours['compile_seconds']:.3g}", f"{ours['first_seconds']:.3g}", f"{ours['peak_gib']:.3g}"]
    return f"| {' | '.join(cells)} |"


def _ratio(row: Row | None) -> str:
    if row is None:
        return ""
    if row["ratio"] == "":
        return "does not run"
    return f"**{row['ratio']:.2f}** ({row['ratio_q1']:.2f} to {row['ratio_q3']:.2f})"


def _plot(path: Path) -> None:
    from matplotlib.figure import Figure

    rows = [row for row in read(path) if row["ratio"] != "" and row["contender"] != "flaxarch"]
    works = sorted({(row["mode"], row["batch"], row["dtype"]) for row in rows})
    figure = Figure((6 * len(works), 7), layout="constrained")
    for i, work in enumerate(works):
        axes: Any = figure.add_subplot(1, len(works), i + 1)
        mine = [row for row in rows if (row["mode"], row["batch"], row["dtype"]) == work]
        names = [name for name in NETWORKS if any(row["network"] == name for row in mine)][::-1]
        for j, (peer, label) in enumerate(PEERS.items()):
            if not (found := [row for row in mine if row["contender"] == peer]):
                continue
            x = [row["ratio"] for row in found]
            y = [names.index(row["network"]) + 0.14 * (2 - j) for row in found]
            spread = [
                [r["ratio"] - r["ratio_q1"] for r in found],
                [r["ratio_q3"] - r["ratio"] for r in found],
            ]
            axes.errorbar(x, y, xerr=spread, fmt="o", markersize=5, label=label, color=f"C{j}")
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xscale("log")
        for form in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            form("{x:g}")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("time divided by flaxarch's: to the right of 1 we are faster")
        axes.set_title("{}, batch {}, {}".format(*work))
        axes.grid(axis="x", which="both", alpha=0.3)
        axes.legend(fontsize="small")
    PLOTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOTS / f"{path.stem}.png", dpi=70, metadata={"Software": None})
