"""Accuracy against operations, with the number of parameters as area: after Canziani et al. 2016.

Canziani, Paszke & Culurciello, https://arxiv.org/abs/1605.07678, count a multiply-add as two operations, and
draw a linear axis; here it counts as one, and the axis is logarithmic, for the MobileNets. An arrow goes from
the network's first training to the best that is published for the same network: what recipes alone brought.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lineage.points import LINES, Point

# One row of each network, and those that the lineage is told by.
SHOWN = {
    "alexnet": "AlexNet",
    "vgg16": "VGG-16",
    "vgg16_bn": "VGG-16 with BN",
    "squeezenet1_1": "SqueezeNet 1.1",
    "googlenet": "GoogLeNet",
    "bn_inception_paper": "BN-Inception",
    "inception_v3": "Inception v3",
    "inception_v4": "Inception v4",
    "inception_resnet_v2": "Inception-ResNet v2",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnet152": "ResNet-152",
    "resnext50_32x4d": "ResNeXt-50",
    "resnext101_32x8d": "ResNeXt-101",
    "wide_resnet50_2": "Wide ResNet-50",
    "densenet121": "DenseNet-121",
    "densenet161": "DenseNet-161",
    "dpn92": "DPN-92",
    "seresnet50": "SE-ResNet-50",
    "senet154": "SENet-154",
    "xception": "Xception",
    "mobilenet_100": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large": "MobileNetV3 large",
    "mobilenet_v3_small": "MobileNetV3 small",
    "shufflenet_v2_x1_0": "ShuffleNet v2",
}
AREA = 9.0  # square points for a million parameters
_LABEL = 7.5  # points


def draw_chart(points: Sequence[Point], path: Path) -> None:
    """The picture, PNG."""
    from matplotlib.figure import Figure

    shown = [point for point in points if point.name in SHOWN]
    if missing := set(SHOWN) - {point.name for point in shown}:
        raise ValueError(f"no published accuracy of {', '.join(sorted(missing))}")
    figure = Figure((10, 7), layout="constrained")
    axes: Any = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_xlim(0.042, 34)
    axes.set_ylim(55, 84.5)
    for point in shown:
        colour = LINES[point.line][0]
        x, area = point.macs / 1e9, AREA * point.params / 1e6
        axes.scatter(x, point.first, area, color=colour, alpha=0.55, linewidth=0)
        if point.best > point.first + 0.3:
            arrow = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
            axes.annotate("", (x, point.best), (x, point.first), arrowprops=arrow)
    axes.set_xlabel(
        "multiply-accumulates for one image, billions (Canziani et al. count two operations for each)"
    )
    axes.set_ylabel("ImageNet top-1, %, one central crop")
    axes.set_title(
        "Operations, parameters (area) and accuracy; arrows: the same network, a better recipe", fontsize=11
    )
    axes.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20], [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
    axes.minorticks_off()
    axes.grid(alpha=0.2)
    axes.set_axisbelow(True)
    _add_legends(axes)
    figure.draw_without_rendering()  # places the axes, which labels are placed in
    _add_labels(figure, axes, shown)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _add_legends(axes: Any) -> None:
    colours = [
        axes.scatter([], [], 60, color=colour, alpha=0.7, label=line) for line, (colour, _) in LINES.items()
    ]
    first = axes.legend(
        handles=colours, loc="upper left", fontsize=8, title="line of descent", title_fontsize=8
    )
    axes.add_artist(first)
    sizes = [
        axes.scatter([], [], AREA * millions, color="#bbbbbb", label=f"{millions} M parameters")
        for millions in (5, 25, 100)
    ]
    axes.legend(
        handles=sizes, loc="lower right", fontsize=8, labelspacing=2.2, borderpad=1.6, handletextpad=2
    )


def _add_labels(figure: Any, axes: Any, shown: Sequence[Point]) -> None:
    """Names beside the circles, each where it covers the least of circles, arrows and other names."""
    from matplotlib.patheffects import withStroke

    pixels = figure.dpi / 72
    at = axes.transData.transform([(point.macs / 1e9, point.first) for point in shown])
    tips = axes.transData.transform([(point.macs / 1e9, point.best) for point in shown])
    radii = np.sqrt([AREA * point.params / 1e6 / np.pi for point in shown]) * pixels
    taken = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(at, radii, strict=True)]
    taken += [(x - 3, min(y, top), x + 3, max(y, top)) for (x, y), (_, top) in zip(at, tips, strict=True)]
    inside = axes.get_window_extent()
    for i in sorted(range(len(shown)), key=lambda i: radii[i]):
        name = SHOWN[shown[i].name]
        width, height = len(name) * 0.56 * _LABEL * pixels, 1.25 * _LABEL * pixels
        box = min(
            (b for b in _boxes(at[i], radii[i], width, height) if b[2] < inside.x1 and b[0] > inside.x0),
            key=lambda box: (
                sum(_overlap(box, other) for other in taken) + 0.02 * _distance(box, at[i], radii[i])
            ),
        )
        taken.append(box)
        x, y = axes.transData.inverted().transform(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        if _distance(box, at[i], radii[i]) > 60:  # away from its circle: a line leads there
            centre = shown[i].macs / 1e9, shown[i].first
            axes.plot((x, centre[0]), (y, centre[1]), color="0.6", linewidth=0.5, zorder=1)
        style: Any = {"fontsize": _LABEL, "ha": "center", "va": "center", "color": LINES[shown[i].line][0]}
        text = axes.text(x, y, name, **style, fontweight="bold")
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _boxes(
    centre: Any, radius: float, width: float, height: float
) -> list[tuple[float, float, float, float]]:
    """Places for a name around a circle."""
    found = []
    for gap in (2, 8, 16, 26):
        for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
            c, s = np.cos(angle), np.sin(angle)
            x = centre[0] + c * (radius + gap + width / 2 * abs(c))
            y = centre[1] + s * (radius + gap + height / 2)
            found.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return found


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(high, 0)


def _distance(box: tuple[float, ...], centre: Any, radius: float) -> float:
    dx = max(box[0] - centre[0], centre[0] - box[2], 0)
    dy = max(box[1] - centre[1], centre[1] - box[3], 0)
    return max(float(np.hypot(dx, dy)) - radius, 0) * 10
