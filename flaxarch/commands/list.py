"""`flaxarch list`: the rows of the registry as a table."""

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

import flaxarch
from flaxarch.commands.base import (
    Column,
    Command,
    UsageError,
    print_json,
    print_table,
    remark,
    short,
    times,
)

if TYPE_CHECKING:
    from flaxarch.variant import Variant

_LIBRARIES = ("torchvision", "timm", "Keras", "pytorchcv")
_PAPER = re.compile(r"\b(19|20)\d\d\b")  # Huang et al. 2017, Table 2
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}


@dataclass(frozen=True)
class List(Command):
    """Lists the networks: name, parameters, multiply-accumulates, ImageNet accuracy, input and source."""

    pattern: tyro.conf.Positional[str] = "*"
    """Names to list: a shell pattern as "resnet*", or a part of the name."""
    sort: Literal["name", "params", "macs", "top1"] = "name"
    """What the rows are in order of."""
    max_params: str | None = None
    """Most parameters, as 25M."""
    max_macs: str | None = None
    """Most multiply-accumulates for one image of the input size, as 4.1G."""
    source: str | None = None
    """Whose networks: torchvision, timm, Keras, pytorchcv, paper, or a part of the source, as "Huang"."""

    def run(self) -> int:
        """Prints the rows; exit status 1 if none is left."""
        max_params, max_macs = _number("params", self.max_params), _number("macs", self.max_macs)
        names = _names(self.pattern)
        rows = {name: flaxarch.published(name) for name in names}
        if self.source is not None:
            rows = {name: rows[name] for name in _of_source(self.source) if name in rows}
        rows = {
            name: row for name, row in rows.items() if row.num_params <= max_params and row.macs <= max_macs
        }
        keys = {
            "params": lambda name: rows[name].num_params,
            "macs": lambda name: rows[name].macs,
            "top1": lambda name: _best(rows[name]) or 0.0,
        }
        ordered = sorted(rows, key=keys.get(self.sort))
        if self.json:
            documents = [
                {
                    "name": name,
                    "num_params": rows[name].num_params,
                    "macs": rows[name].macs,
                    "input_shape": rows[name].input_shape,
                    "num_classes": rows[name].num_classes,
                    "top1": [result._asdict() for result in rows[name].top1],
                    "source": rows[name].source,
                }
                for name in ordered
            ]
            print_json(documents)
        elif ordered:
            cells = ((name, *_cells(rows[name])) for name in ordered)
            titles = "params", "MACs", "top-1, %", "input"
            numbers = [Column(title, True) for title in titles]
            print_table((Column("name"), *numbers, Column("source")), cells)
        if not ordered:
            remark(f"of {len(names)} networks with such a name, none is left by the limits")
        return 0 if ordered else 1


def _cells(row: "Variant") -> tuple[str, ...]:
    return short(row.num_params), short(row.macs), _range(row), times(row.input_shape), row.source


def _best(row: "Variant") -> float | None:
    return max((result.percent for result in row.top1), default=None)


def _range(row: "Variant") -> str:
    """The first training's accuracy, and the best one's where that is another: "76.1 to 80.9"."""
    if not row.top1:
        return ""
    first, best = f"{row.top1[0].percent:.1f}", f"{_best(row):.1f}"
    return first if first == best else f"{first} to {best}"


def _names(pattern: str) -> list[str]:
    names = flaxarch.list_models(pattern)
    if not names and not set(pattern) & set("*?["):
        names = flaxarch.list_models(f"*{pattern}*")
    if not names:
        near = difflib.get_close_matches(pattern.strip("*?"), flaxarch.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`flaxarch list` has all names"
        raise UsageError(f"no network's name fits {pattern!r}: {hint}")
    return names


def _of_source(words: str) -> list[str]:
    sources = {name: flaxarch.published(name).source for name in flaxarch.list_models()}
    if words.lower() in ("paper", "papers"):
        return [name for name, source in sources.items() if _PAPER.search(source)]
    fits = [name for name, source in sources.items() if words.lower() in source.lower()]
    if not fits or not words:
        raise UsageError(f"no network's source has {words!r} in it: try {', '.join(_LIBRARIES)} or paper")
    return fits


def _number(what: str, text: str | None) -> float:
    """4.1G -> 4.1e9; None is no limit."""
    if text is None:
        return float("inf")
    parts = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?) ?([kmgbt]?)", text.strip().lower())
    if parts is None:
        raise UsageError(f"--max-{what} is {text!r}: it has to be a number such as 25M, 4.1G or 800000")
    return float(parts[1]) * _UNITS[parts[2]]
