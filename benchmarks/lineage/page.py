"""The chart as one HTML file to point at, with all rows: nothing is loaded from elsewhere."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lineage.points import LINES, Point

_TEMPLATE = Path(__file__).with_name("page.html")


def write_page(points: Sequence[Point], path: Path) -> None:
    """The template with the rows and the colours in it."""
    data = {
        "points": [point._asdict() for point in points],
        "colours": {line: colour for line, (colour, _) in LINES.items()},
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    path.write_text(_TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", text), encoding="utf-8")
