"""The lineage in time: what came after what, and what it took over."""

from pathlib import Path
from typing import Any, NamedTuple

import flaxarch
from benchmarks.lineage.points import LINES


class Paper(NamedTuple):
    """An architecture as it became known."""

    name: str
    year: float  # with the month of the preprint, or of the conference where there is none
    lane: float  # from below
    line: str  # of descent
    row: str  # of the registry, that parameters are taken of
    idea: str
    parents: tuple[str, ...] = ()


PAPERS = (
    Paper("LeNet-5", 1998.9, 4, "plain", "lenet5", "learned convolutions"),
    Paper("AlexNet", 2012.95, 4, "plain", "alexnet_2012", "ReLU, dropout, GPUs", ("LeNet-5",)),
    Paper("ZFNet", 2013.87, 5.2, "plain", "zfnet", "looked inside", ("AlexNet",)),
    Paper("NiN", 2013.96, 3, "plain", "nin_imagenet", "1x1, mean of maps", ("AlexNet",)),
    Paper("VGG", 2014.68, 4, "plain", "vgg16", "3x3 only", ("AlexNet",)),
    Paper("GoogLeNet", 2014.71, 2.9, "Inception", "googlenet_paper_no_aux", "many scales", ("NiN",)),
    Paper("BN-Inception", 2015.12, 1.8, "Inception", "bn_inception", "batch norm", ("GoogLeNet",)),
    Paper("U-Net", 2015.38, 7, "plain", "unet", "down, up, copies", ("VGG",)),
    Paper("Inception v3", 2015.92, 1.8, "Inception", "inception_v3", "factorised kernels", ("BN-Inception",)),
    Paper("ResNet", 2015.94, 5, "residual", "resnet50_v1", "x + F(x)", ("VGG", "BN-Inception")),
    Paper("SqueezeNet", 2016.15, 0, "plain", "squeezenet1_0", "AlexNet in 5 MB", ("NiN",)),
    Paper("pre-activation", 2016.21, 6, "residual", "preact_resnet1001", "a free path", ("ResNet",)),
    Paper("stochastic depth", 2016.25, 8.2, "residual", "resnet1202_sd", "blocks left out", ("ResNet",)),
    Paper("Wide ResNet", 2016.39, 7.1, "residual", "wrn_28_10", "wide, not deep", ("ResNet",)),
    Paper(
        "Inception v4", 2016.15, 3, "Inception", "inception_v4", "and x + F(x)", ("Inception v3", "ResNet")
    ),
    Paper("DenseNet", 2016.65, 4, "dense", "densenet121", "all before, kept", ("ResNet",)),
    Paper("Xception", 2016.77, 1, "depthwise", "xception", "depthwise, then 1x1", ("Inception v3",)),
    Paper("ResNeXt", 2016.88, 5, "residual", "resnext50_32x4d", "32 paths", ("ResNet",)),
    Paper("MobileNet", 2017.3, 1, "depthwise", "mobilenet_100_paper", "for a phone", ("Xception",)),
    Paper("ResNet as ODE", 2017.4, 6, "residual", "ode_resnet", "x' = F(x, t)", ("pre-activation",)),
    Paper("DPN", 2017.51, 4, "dense", "dpn92", "both paths", ("DenseNet", "ResNeXt")),
    Paper("SENet", 2017.68, 5, "squeeze-and-excitation", "senet154", "channels weighed", ("ResNeXt",)),
    Paper("MobileNetV2", 2018.04, 1, "depthwise", "mobilenet_v2", "inverted", ("MobileNet",)),
    Paper("ShuffleNet v2", 2018.55, 2.3, "depthwise", "shufflenet_v2_x1_0", "by the clock", ("MobileNet",)),
    Paper("MobileNetV3", 2019.35, 1, "depthwise", "mobilenet_v3_large", "searched", ("MobileNetV2", "SENet")),
    Paper("airbench", 2024.25, 4, "plain", "airbench94", "94 % in seconds", ("VGG",)),
)

# Years on the axis: the crowded ones are drawn wider.
_STRETCH = (
    (1998, 0.0),
    (2012.5, 1.6),
    (2014.3, 4.4),
    (2015.8, 8.6),
    (2017.0, 15.8),
    (2018.0, 19.6),
    (2019.5, 22.4),
    (2024.6, 24.4),
)


def place(year: float) -> float:
    """Where a year is drawn, between the known places in a straight line."""
    import numpy as np

    years, places = zip(*_STRETCH, strict=True)
    return float(np.interp(year, years, places))


def draw_timeline(path: Path) -> None:
    """The picture, PNG."""
    from matplotlib.figure import Figure

    figure = Figure((14, 7.4), layout="constrained")
    axes: Any = figure.add_subplot()
    by_name = {paper.name: paper for paper in PAPERS}
    for paper in PAPERS:
        for parent in paper.parents:
            start = by_name[parent]
            arrow = {
                "arrowstyle": "-|>",
                "color": LINES[paper.line][0],
                "alpha": 0.35,
                "shrinkA": 8,
                "shrinkB": 8,
                "connectionstyle": "arc3,rad=0.08",
            }
            ends = (place(paper.year), paper.lane), (place(start.year), start.lane)
            axes.annotate("", *ends, arrowprops=arrow)
    for paper in PAPERS:
        colour, x = LINES[paper.line][0], place(paper.year)
        millions = flaxarch.published(paper.row).num_params / 1e6
        axes.scatter(x, paper.lane, 30 + 3 * millions, color=colour, alpha=0.8, linewidth=0, zorder=3)
        axes.text(
            x, paper.lane + 0.22, paper.name, ha="center", fontsize=9.5, fontweight="bold", color=colour
        )
        axes.text(
            x,
            paper.lane - 0.4,
            f"{paper.idea}\n{_millions(millions)}",
            ha="center",
            va="center",
            fontsize=7,
            color="0.25",
        )
    years = (1998, 2013, 2014, 2015, 2016, 2017, 2018, 2019, 2024)
    axes.set_xticks([place(year) for year in years], years)
    axes.set_xlim(-0.9, 25.4)
    axes.set_ylim(-0.8, 9)
    axes.set_yticks([])
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    for line, (colour, _) in LINES.items():
        axes.scatter([], [], 50, color=colour, alpha=0.8, label=line)
    axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _millions(millions: float) -> str:
    return f"{millions:.2g} M" if millions < 10 else f"{millions:.0f} M"
