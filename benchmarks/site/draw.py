"""A graph as an SVG picture. Its colours are the page's: `docs/site.css` has the classes."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from benchmarks.site.graph import Node
from benchmarks.site.layout import LINE, Box, Layout, lines_of, place

MARGIN = 6.0


def draw(nodes: Sequence[Node], title: str) -> str:
    """The picture, one line; `title` and a description in words are for those who cannot see it."""
    layout = place(nodes)
    width, height = layout.width + 2 * MARGIN, layout.height + 2 * MARGIN
    parts = [
        f'<svg class="block" xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="{-MARGIN:g} {-MARGIN:g} {width:.1f} {height:.1f}">',
        f"<title>{escape(title)}</title><desc>{escape(in_words(nodes))}</desc>",
        *_edges(layout),
        *(part for box in layout.boxes for part in _box(box)),
        "</svg>",
    ]
    return "".join(parts)


def in_words(nodes: Sequence[Node]) -> str:
    """The graph, a sentence for each node."""
    names = [f"({i}) {', '.join([node.title, *node.details])}" for i, node in enumerate(nodes)]
    sentences = []
    for node, name in zip(nodes, names, strict=True):
        sources = ", ".join(f"({i})" for i in node.inputs)
        sentences.append(f"{name} of {sources}" if sources else name)
    return "; ".join(sentences) + "."


def _edges(layout: Layout) -> list[str]:
    parts = []
    for edge in layout.edges:
        *_, (x1, y1) = edge
        points = [point for k, point in enumerate(edge) if k == 0 or point != edge[k - 1]]
        parts.append(f'<path class="edge" d="{_path(points)}"/>')
        arrow = f"M{x1 - 3.5:.1f} {y1 - 6:.1f}L{x1:.1f} {y1:.1f}L{x1 + 3.5:.1f} {y1 - 6:.1f}Z"
        parts.append(f'<path class="tip" d="{arrow}"/>')
    return parts


def _path(points: list[tuple[float, float]]) -> str:
    """Straight where it goes down or across, and else a curve that begins and ends downwards."""
    d = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        if abs(x0 - x1) < 0.5 or y1 <= y0:
            d += f"L{x1:.1f} {y1:.1f}"
        else:
            middle = (y0 + y1) / 2
            d += f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
    return d


def _box(box: Box) -> list[str]:
    parts, y = [], box.y
    left = box.x - box.width / 2
    for node, height in zip(box.nodes, box.heights, strict=True):
        kind = escape(node.kind)
        if node.kind == "sum":
            radius = height / 2
            parts.append(f'<circle class="{kind}" cx="{box.x:.1f}" cy="{y + radius:.1f}" r="{radius:.1f}"/>')
            parts.append(_text(box.x, y + radius, node.title, "sign"))
        else:
            round_ = height / 2 if node.kind in ("input", "output") else 3
            parts.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{y:.1f}" width="{box.width:.1f}" '
                f'height="{height:.1f}" rx="{round_:g}"/>'
            )
            for k, line in enumerate(lines_of(node)):
                is_title = k == 0 and node.kind not in ("input", "output")
                parts.append(_text(box.x, y + 3 + LINE * (k + 0.5), line, "name" if is_title else "detail"))
        y += height
    return parts


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
