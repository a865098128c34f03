"""Tiles of several pictures side by side, as one PNG. Needs matplotlib."""

import textwrap
import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

from flaxarch.explain.tiles import Scale, Tile

_SIDE, _GAP = 2.6, 0.2  # inches: a tile, and what is between two
_BELOW, _LINE = 0.62, 0.17  # inches: for scale and note, and for a line of the title
_LETTERS = 36  # of a title's line


class Strip(NamedTuple):
    """A row of tiles: of one picture, or of the network."""

    titles: Sequence[str]  # of the tiles
    tiles: Sequence[Tile]


def draw(strips: Sequence[Strip]) -> bytes:
    """A PNG with a row for each strip, and under each tile its scale of colours and its note."""
    from matplotlib.figure import Figure

    titles = [["\n".join(_wrapped(title)) for title in strip.titles] for strip in strips]
    above = [0.12 + _LINE * max(title.count("\n") + 1 for title in row) for row in titles]
    width = _GAP + (_SIDE + _GAP) * max(len(strip.tiles) for strip in strips)
    height = sum(above) + len(strips) * (_SIDE + _BELOW)
    figure = Figure(figsize=(width, height), facecolor="white")
    bottom = height
    for strip, row, title_height in zip(strips, titles, above, strict=True):
        bottom -= title_height + _SIDE
        for i, (title, tile) in enumerate(zip(row, strip.tiles, strict=True)):
            left = _GAP + i * (_SIDE + _GAP)
            axes = figure.add_axes((left / width, bottom / height, _SIDE / width, _SIDE / height))
            _draw_tile(axes, title, tile)
        bottom -= _BELOW
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name in a script that the font lacks
        figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()


def _draw_tile(axes: Any, title: str, tile: Tile) -> None:
    axes.imshow(tile.picture, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=8.5, pad=4, parse_math=False)  # a name may hold dollar signs
    if tile.scale is not None:
        _draw_scale(axes, tile.scale)
    small = {"fontsize": 6.5, "transform": axes.transAxes, "ha": "center", "va": "top", "parse_math": False}
    note = "\n".join(textwrap.wrap(tile.note, 52, max_lines=2))
    axes.text(0.5, -0.035 if tile.scale is None else -0.135, note, **small)


def _draw_scale(axes: Any, scale: Scale) -> None:
    """A bar of colours under a tile, its ends' numbers, and the unit between them."""
    from matplotlib import colormaps

    bar = axes.inset_axes((0.0, -0.055, 1.0, 0.03))
    bar.imshow([[i / 255 for i in range(256)]], aspect="auto", cmap=colormaps[scale.colours])
    bar.set_axis_off()
    small = {"fontsize": 6.5, "transform": axes.transAxes, "va": "top"}
    axes.text(0, -0.07, number(scale.low), ha="left", **small)
    axes.text(0.5, -0.07, scale.unit, ha="center", **small)
    axes.text(1, -0.07, number(scale.high), ha="right", **small)


def _wrapped(title: str) -> list[str]:
    return [
        line
        for part in title.split("\n")
        for line in textwrap.wrap(part, _LETTERS, max_lines=2, placeholder=" …") or [""]
    ]


def number(value: float) -> str:
    """Three digits, with a minus of its own width."""
    return f"{value:.3g}".replace("-", "−")
