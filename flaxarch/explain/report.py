"""Pictures explained one after the other, into PNGs and one page. Needs matplotlib."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxarch.explain import page, sheet, tiles
from flaxarch.explain.methods import METHODS, NETWORK_METHODS, Method, NetworkMethod, Subject, View

_TOP = 3  # classes that are named
ROWS = 8  # pictures on one PNG
_FIELDS = 16  # pictures that an effective receptive field is the average of


class Found(NamedTuple):
    """What is said of a picture."""

    path: str
    number: int  # of the class explained
    name: str
    probability: float | None  # None: the network has but one class
    logit: float
    notes: dict[str, str]  # of the tiles that have one, by title


class Report:
    """Collects what the methods show of pictures, and writes explain.html, explain.png, explain-2.png, ...

    >>> report = Report(Subject(model, variables, row), ["grad-cam"], names, None, Path("out"))
    >>> report.add("cat.jpg", preprocess("cat.jpg"))
    >>> report.finish("What resnet50 looks at", [])
    """

    def __init__(
        self, subject: Subject, methods: Sequence[str], names: Sequence[str], number: int | None, out: Path
    ):
        """`names`: of all classes; `number`: of the one to explain, None: the likeliest of each picture."""
        self.subject, self.names, self.number, self.out = subject, names, number, out
        self.methods = [METHODS[name] for name in methods if name in METHODS]
        self.network_methods = [NETWORK_METHODS[name] for name in methods if name in NETWORK_METHODS]
        self.files: list[Path] = []
        self._sections: list[str] = []  # of the page
        self._strips: list[sheet.Strip] = []  # of the PNG that is not yet full
        self._images: list[np.ndarray] = []  # for the network's own tiles

    def add(self, path: str, image: np.ndarray) -> Found:
        """One more picture (H, W, C), as the network reads it. ValueError: the logits are no numbers."""
        logits = self.subject.logits(image)
        if not np.isfinite(logits).all():
            raise ValueError(f"the network gives no numbers for {path}: its weights are broken")
        asked = int(logits.argmax()) if self.number is None else self.number
        odds = np.exp(logits - logits.max())
        shares: list[float | None] = [None] if len(logits) == 1 else (odds / odds.sum()).tolist()
        view = View(image, asked, tiles.shown(image, self.subject.row))
        figures = [page.Figure("picture", f"{path}, as the network reads it.", tiles.Tile(view.picture))]
        for method in self.methods:
            about = f"{method.title} for {self.names[asked]}: {method.about}"
            figures.append(page.Figure(method.title, about, method.draw(self.subject, view)))
        if len(self._images) < _FIELDS:
            self._images.append(image)

        titles = [f"{_printable(Path(path).name)}\n{_label(_printable(self.names[asked]), shares[asked])}"]
        titles += [figure.title for figure in figures[1:]]
        if len(self._strips) == ROWS:
            self._write_sheet()
        self._strips.append(sheet.Strip(titles, [figure.tile for figure in figures]))
        order: list[int] = np.argsort(-logits, kind="stable")[:_TOP].tolist()
        order += [asked] if asked not in order else []
        guesses = [page.Guess(self.names[i], shares[i], i == asked) for i in order]
        self._sections.append(page.section(page.Entry(path, guesses, figures)))
        notes = {figure.title: figure.tile.note for figure in figures if figure.tile.note}
        return Found(path, asked, self.names[asked], shares[asked], float(logits[asked]), notes)

    def finish(self, title: str, facts: Sequence[str]) -> list[Path]:
        """Writes what is not yet written, under a title and some sentences; all files."""
        own = [
            page.Figure(method.title, method.about, method.draw(self.subject, self._images))
            for method in self.network_methods
        ]
        if own:
            self._strips.append(sheet.Strip([f.title for f in own], [f.tile for f in own]))
        if self._strips:
            self._write_sheet()
        terms = {x.title: _term(x) for x in (*self.methods, *self.network_methods)}
        content = page.page(title, facts, self._sections, own, terms)
        self._write("explain.html", content.encode("utf-8", "replace"))
        return self.files

    def _write_sheet(self) -> None:
        number = len(self.files) + 1
        self._write("explain.png" if number == 1 else f"explain-{number}.png", sheet.draw(self._strips))
        self._strips.clear()

    def _write(self, name: str, content: bytes) -> None:
        """A file, whole or not at all."""
        self.out.mkdir(parents=True, exist_ok=True)
        path, part = self.out / name, self.out / f"{name}.part"
        try:
            part.write_bytes(content)
            os.replace(part, path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
        finally:
            part.unlink(missing_ok=True)
        self.files.append(path)


def _label(name: str, share: float | None) -> str:
    """A class and its probability."""
    return name if share is None else f"{name}, {100 * share:.1f} %"


def _printable(name: str) -> str:
    """A name from a file, without what no font draws."""
    return "".join(x if x.isprintable() else "?" for x in name)


def _term(method: Method | NetworkMethod) -> str:
    """What a reader is told of a method."""
    return f"{method.about} {method.source}; costs {method.passes}."
