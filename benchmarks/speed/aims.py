"""What the CPU's forms are to reach in float32, and which networks reach it in the kept runs."""

from statistics import median
from typing import NamedTuple

from benchmarks.speed.cases import NETWORKS, Case, Mode
from benchmarks.speed.run import Row

ALL = tuple(NETWORKS)
TWO = ("resnet18", "resnet50")
RESNETS = tuple(name for name in NETWORKS if "resnet" in name)
DEPTHWISE = ("mobilenet_100", "mobilenet_v2", "xception")
TORCH = ("torch",)
ON_JAX = ("keras", "flax_example", "flaxmodels")


class Aim(NamedTuple):
    """`who` is to be at least `bound` times as fast as the fastest of `peers`."""

    what: str
    who: str
    peers: tuple[str, ...]
    mode: Mode
    bound: float
    networks: tuple[str, ...]


AIMS = (
    Aim("ours beside torch, ResNet-18 and 50", "flaxarch", TORCH, "inference", 0.8, TWO),
    Aim("ours beside torch, ResNet-18 and 50", "flaxarch", TORCH, "training", 0.5, TWO),
    Aim("ours beside torch", "flaxarch", TORCH, "training", 0.3, ALL),
    Aim("with native kernels beside torch", "kernels", TORCH, "inference", 1.0, ALL),
    Aim("with native kernels beside torch", "kernels", TORCH, "training", 0.9, ALL),
    Aim("ours beside the fastest on JAX, ResNets", "flaxarch", ON_JAX, "training", 1.5, RESNETS),
    Aim("with native kernels beside it, ResNets", "kernels", ON_JAX, "training", 1.5, RESNETS),
    Aim("ours beside it, depthwise networks", "flaxarch", ON_JAX, "inference", 10.0, DEPTHWISE),
    Aim("ours beside it, depthwise networks", "flaxarch", ON_JAX, "training", 10.0, DEPTHWISE),
    Aim("with native kernels beside it, depthwise networks", "kernels", ON_JAX, "inference", 10.0, DEPTHWISE),
    Aim("with native kernels beside it, depthwise networks", "kernels", ON_JAX, "training", 10.0, DEPTHWISE),
)


def _reached(aim: Aim, rows: list[Row]) -> dict[str, float]:
    """How many times as fast, by network and, where there are several, batch."""
    found: dict[str, float] = {}
    fields = Case._fields
    ratios = {(*(row[f] for f in fields), row["contender"]): row["ratio"] for row in rows if row["ratio"]}
    for name in aim.networks:
        cases = [row for row in rows if (row["network"], row["mode"]) == (name, aim.mode)]
        batches = sorted({row["batch"] for row in cases if row["dtype"] == "float32"})
        for batch in batches:
            case = (name, aim.mode, batch, "float32")
            peers = [ratios[*case, peer] for peer in aim.peers if (*case, peer) in ratios]
            if peers and (*case, aim.who) in ratios:
                which = f" at {batch}" if aim.mode == "inference" else ""
                found[name + which] = min(peers) / ratios[*case, aim.who]
    return found


def table(rows: list[Row]) -> str:
    """Each aim, how far it was reached, and by whom it was missed."""
    lines = ["| aim | at least | least | median | of | missed by |", f"|{' --- |' * 6}"]
    for aim in AIMS:
        if not (found := _reached(aim, rows)):
            continue
        missed = [f"{name} {value:.2f}" for name, value in found.items() if value < aim.bound]
        values = list(found.values())
        cells = [f"{aim.what}, {aim.mode}", f"{aim.bound:g}", f"{min(values):.2f}", f"{median(values):.2f}"]
        lines.append(f"| {' | '.join([*cells, str(len(values)), ', '.join(missed) or 'none'])} |")
    return "\n".join(lines) + "\n"
