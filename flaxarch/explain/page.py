"""Tiles of pictures as one HTML page that holds all it shows: from disk, light or dark, of any width."""

import base64
import html
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from flaxarch.explain.sheet import number
from flaxarch.explain.tiles import Scale, Tile, coloured

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1f; --faint: #5f6068; --line: #d9dae0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16171b; --ink: #e8e8ec; --faint: #a2a3ad; --line: #34353d; }
}
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 84rem; overflow-wrap: anywhere; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 0 0 .25rem; }
section { border-top: 1px solid var(--line); margin-top: 1.75rem; padding-top: 1.25rem; }
p, dl { margin: .25rem 0; }
.faint, figcaption span, dd { color: var(--faint); }
.top { display: flex; flex-wrap: wrap; gap: 0 1.25rem; list-style: none; margin: .25rem 0 1rem; padding: 0; }
.top .asked { font-weight: 600; }
.tiles { display: grid; gap: 1.25rem 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figure img { border-radius: 4px; display: block; height: auto; width: 100%; }
figcaption { font-weight: 600; margin-bottom: .25rem; }
.scale { display: grid; font-size: .8rem; grid-template-columns: 1fr auto 1fr; margin-top: .3rem; }
.scale i { border-radius: 2px; grid-column: 1 / -1; height: .5rem; }
.scale b { font-weight: 400; color: var(--faint); } .scale :last-child { text-align: right; }
.note { color: var(--faint); font-size: .8rem; margin-top: .2rem; }
dt { font-weight: 600; margin-top: .75rem; } dd { margin: 0; }
"""


class Guess(NamedTuple):
    """A class of a picture."""

    name: str
    probability: float | None  # None: the network has but one class
    is_explained: bool


class Entry(NamedTuple):
    """A picture of the page, and what was made of it."""

    name: str
    guesses: Sequence[Guess]  # the likeliest first
    figures: Sequence["Figure"]


class Figure(NamedTuple):
    """A tile with what is said of it."""

    title: str
    about: str  # one sentence, for those who do not see it
    tile: Tile


def page(
    title: str,
    facts: Sequence[str],
    entries: Sequence[str],
    network: Sequence[Figure],
    methods: Mapping[str, str],
) -> str:
    """The whole page.

    Args:
      title: of the page.
      facts: sentences below it.
      entries: the sections of pictures, as `section` makes them.
      network: figures of the network itself.
      methods: name of each method, and what a reader is to know of it.
    """
    said = "".join(f'<p class="faint">{html.escape(fact)}</p>\n' for fact in facts)
    terms = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(said)}</dd>\n" for name, said in methods.items()
    )
    own = f"<section>\n<h2>The network</h2>\n{_grid(network)}</section>\n" if network else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
{said}</header>
<main>
{"".join(entries)}{own}<section>
<h2>The methods</h2>
<dl>
{terms}</dl>
</section>
</main>
</body>
</html>
"""


def section(entry: Entry) -> str:
    """The part of the page that is of one picture."""
    guesses = "".join(map(_guess, entry.guesses))
    return (
        f"<section>\n<h2>{html.escape(entry.name).replace('/', '/<wbr>')}</h2>\n"
        f'<ul class="top">{guesses}</ul>\n{_grid(entry.figures)}</section>\n'
    )


def _guess(guess: Guess) -> str:
    share = "" if guess.probability is None else f" {100 * guess.probability:.1f} %"
    mark = ' class="asked"' if guess.is_explained else ""
    return f"<li{mark}>{html.escape(guess.name)}{share}</li>"


def _grid(figures: Sequence[Figure]) -> str:
    return '<div class="tiles">\n' + "".join(map(_figure, figures)) + "</div>\n"


def _figure(figure: Figure) -> str:
    tile = figure.tile
    height, width = tile.picture.shape[:2]
    below = "" if tile.scale is None else _scale(tile.scale)
    below += f'<div class="note">{html.escape(tile.note)}</div>' if tile.note else ""
    return (
        f"<figure><figcaption>{html.escape(figure.title)}</figcaption>"
        f'<img width="{width}" height="{height}" alt="{html.escape(figure.about)}" '
        f'src="{data_uri(tile.picture)}">'
        f"{below}</figure>\n"
    )


def _scale(scale: Scale) -> str:
    """A bar of colours with the ends' numbers."""
    values = np.linspace(scale.low, scale.high, 9)
    colours = (255 * coloured(values, scale)).round().astype(int)
    stops = ", ".join("#" + "".join(f"{x:02x}" for x in colour) for colour in colours)
    return (
        f'<div class="scale"><i style="background: linear-gradient(to right, {stops})"></i>'
        f"<span>{number(scale.low)}</span><b>{html.escape(scale.unit)}</b><span>{number(scale.high)}</span></div>"
    )


def data_uri(picture: np.ndarray) -> str:
    """A picture in an address: as PNG or, where that is smaller, as JPEG of high quality."""
    contents = []
    for kind, settings in (("png", {"optimize": True}), ("jpeg", {"quality": 90, "subsampling": 0})):
        stream = BytesIO()
        Image.fromarray(picture).save(stream, kind, **settings)
        contents.append((len(stream.getvalue()), kind, stream.getvalue()))
    _, kind, content = min(contents)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
