"""What the chart shows of each network, and the colours of the families."""

from pathlib import Path
from typing import NamedTuple

import flaxarch
from flaxarch.registry import FAMILIES

FOLDER = Path(__file__).parents[2] / "docs" / "lineage"

# A colour for each line of descent, told apart by the colour-blind too (Okabe & Ito 2008), and its families.
LINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("#707070", ("alexnet", "vgg", "nin", "lenet", "squeezenet", "airbench")),
    "Inception": (
        "#D55E00",
        ("googlenet", "bn_inception", "inception_v3", "inception_v4", "inception_resnet"),
    ),
    "residual": ("#0072B2", ("resnet", "cifar_resnet", "wide_resnet", "preact_resnet", "ode_resnet")),
    "dense": ("#009E73", ("densenet", "dpn")),
    "squeeze-and-excitation": ("#CC79A7", ("senet",)),
    "depthwise": (
        "#B8860B",
        ("mobilenet", "mobilenet_v2", "mobilenet_v3", "xception", "shufflenet_v2"),
    ),
}


class Point(NamedTuple):
    """A network with a published accuracy on ImageNet."""

    name: str
    line: str  # of descent: a key of LINES
    params: int
    macs: int
    size: int  # pixels of the crop's side
    first: float  # %, of the oldest training
    first_source: str
    best: float  # %, of the best one
    best_source: str


def line_of(family: str) -> str:
    """A family's line of descent."""
    return next(line for line, (_, families) in LINES.items() if family in families)


def points() -> list[Point]:
    """Every row with a published accuracy; the largest network first, so that small ones stay on top."""
    found = []
    for family in FAMILIES:
        line = line_of(family.__name__.rpartition(".")[2]) if _has_accuracy(family.VARIANTS) else ""
        for name in family.VARIANTS:
            row = flaxarch.published(name)
            if row.top1:
                first, best = row.top1[0], max(row.top1)
                costs = row.num_params, row.macs, row.input_shape[0]
                found.append(Point(name, line, *costs, *first, *best))
    return sorted(found, key=lambda point: -point.params)


def _has_accuracy(names: dict[str, object]) -> bool:
    return any(flaxarch.published(name).top1 for name in names)
