"""`flaxarch list`: the rows of the registry as a table."""

import difflib
import re
from dataclasses import dataclass
from typing import Literal

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

_LIBRARIES = ("torchvision", "timm", "Keras", "pytorchcv")
_PAPER = re.compile(r"\b(19|20)\d\d\b")  # Huang et al. 2017, Table 2
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}


@dataclass(frozen=True)
class List(Command):
    """Lists the networks: name, parameters, multiply-accumulates, input and source."""

    pattern: tyro.conf.Positional[str] = "*"
    """Names to list: a shell pattern as "resnet*", or a part of the name."""
    sort: Literal["name", "params", "macs"] = "name"
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
        keys = {"params": lambda name: rows[name].num_params, "macs": lambda name: rows[name].macs}
        ordered = sorted(rows, key=keys.get(self.sort))
        if self.json:
            documents = [
                {
                    "name": name,
                    "num_params": rows[name].num_params,
                    "macs": rows[name].macs,
                    "input_shape": rows[name].input_shape,
                    "num_classes": rows[name].num_classes,
                    "source": rows[name].source,
                }
                for name in ordered
            ]
            print_json(documents)
        elif ordered:
            cells = (
                (name, short(row.num_params), short(row.macs), times(row.input_shape), row.source)
                for name, row in ((name, rows[name]) for name in ordered)
            )
            numbers = Column("params", True), Column("MACs", True), Column("input", True)
            print_table((Column("name"), *numbers, Column("source")), cells)
        if not ordered:
            remark(f"of {len(names)} networks with such a name, none is left by the limits")
        return 0 if ordered else 1


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
