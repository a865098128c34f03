"""`flaxarch explain`: what in a picture a network's answer rests on, as a PNG and as a page."""

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import flaxarch
from flaxarch import pictures
from flaxarch.commands.base import Command, UsageError, print_json, printable, remark, stdout
from flaxarch.commands.classes import class_names
from flaxarch.commands.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from flaxarch.explain.methods import Subject
    from flaxarch.explain.report import Found

MethodName = Literal[
    "grad-cam",
    "cam",
    "guided-backprop",
    "gradient",
    "integrated-gradients",
    "occlusion",
    "activations",
    "filters",
    "receptive-field",
]
_DEFAULT: tuple[MethodName, ...] = ("grad-cam", "guided-backprop", "integrated-gradients", "occlusion")
_WITH_LAYER = ("grad-cam", "activations", "receptive-field")


@dataclass(frozen=True)
class Explain(Command):
    """Shows what in pictures a network's answer rests on: maps of them side by side, as PNG and as a page.

    The page is one file, OUT/explain.html, and the PNG OUT/explain.png; more than 8 pictures go on to
    explain-2.png. A picture that cannot be read is named and passed over; the exit status is 1 then. Four
    methods are taken by default, which together cost some 120 forward passes for each picture.
    """

    paths: tyro.conf.Positional[tuple[str, ...]]
    """Pictures, folders, tars (.tar, .tar.gz, .tgz), or patterns in quotes as "photos/*.jpg"."""
    weights: Path
    """A checkpoint of torchvision, timm, Keras or pytorchcv, or one that flaxarch wrote."""
    out: Path
    """Folder to write to; it is made where there is none."""
    name: str | None = None
    """Which network it is, where the file does not tell; one of those that `flaxarch list` shows."""
    methods: tuple[MethodName, ...] = _DEFAULT
    """What to show. Of the default ones, those that the network lacks are left out."""
    layer: str | None = None
    """Layer of grad-cam, activations and receptive-field, as `flaxarch summary` names it: "layer1_0/conv1";
    None: the last feature map."""
    wanted: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """Class to explain, by name or number from 0; None: the likeliest of each picture."""
    classes: Path | None = None
    """File with the names of the classes, one a line; else the checkpoint's, or those of its data set."""
    force: bool = False
    """Write over files that are there."""

    def run(self) -> int:
        """Writes the files, and tells of each picture."""
        self._check()
        paths = pictures.find(self.paths)
        from flaxarch.commands.batches import row_of  # brings NumPy and JAX
        from flaxarch.explain.methods import Subject
        from flaxarch.explain.report import Report

        found = flaxarch.convert.recognise(self.weights, self.name)
        row = row_of(found, self.weights.name)
        names, origin = class_names(found, flaxarch.published(found.name), self.classes)
        wanted = None if self.wanted is None else class_number(self.wanted, names)
        model, variables = flaxarch.load(self.weights, self.name)
        subject = Subject(model, variables, row, self.layer)
        methods = self._methods(subject)
        remark(f"{self.weights}: {found}; names of classes: {origin}")

        report = Report(subject, methods, names, wanted, self.out)
        explained, unreadable = [], []
        with progress(paths, in_sight=stdout().is_terminal and not self.json) as (advance, say):
            for path, image in _prepared(paths, subject):
                if isinstance(image, str):
                    unreadable.append({"path": path, "problem": image})
                    say(f"not readable: {path} ({image})")
                else:
                    explained.append(report.add(path, image))
                    if not self.json:
                        stdout().print(printable(_line(explained[-1])))
                advance()
        if not explained and not unreadable:
            raise UsageError(f"there is no picture in {', '.join(map(str, paths))}")
        facts = [
            f"{found}, from {self.weights.name}; names of classes: {origin}. In bold: the class explained."
        ]
        layer = None if set(methods).isdisjoint(_WITH_LAYER) else subject.layer_name
        if layer:
            facts.append(f"Layer: {layer}.")
        files = report.finish(f"What {found.name} looks at", facts) if explained else []
        if self.json:
            about = {"weights": str(self.weights), "name": found.name, "classes": origin}
            about |= {"methods": methods, "layer": layer, "files": list(map(str, files))}
            print_json(about | {"pictures": list(map(_document, explained)), "unreadable": unreadable})
        elif files:
            stdout().print(f"written: {', '.join(map(str, files))}")
        if unreadable:
            remark(f"{len(unreadable)} of {len(explained) + len(unreadable)} pictures could not be read")
        return 1 if unreadable else 0

    def _check(self) -> None:
        """UsageError for what can be told before anything is read."""
        if not self.paths:
            raise UsageError("there is nothing to explain: give pictures, folders or tars")
        if find_spec("matplotlib") is None:
            raise UsageError(
                "explain draws with matplotlib, which is missing: pip install 'flaxarch[report]'"
            )
        if not self.methods:
            raise UsageError("--methods names none: leave it out for the usual four")
        twice = [name for name in self.methods if self.methods.count(name) > 1]
        if twice:
            raise UsageError(f"--methods names {twice[0]} twice")
        if self.layer is not None and set(self.methods).isdisjoint(_WITH_LAYER):
            raise UsageError(f"--layer is for {', '.join(_WITH_LAYER)}, and none of them is asked for")
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out} is a file: --out is the folder to write to")
        above = next(path for path in (self.out, *self.out.absolute().parents) if path.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise UsageError(f"{self.out} cannot be written to: {above} is no folder that allows it")
        patterns = ("explain.html", "explain.png", "explain-*.png")
        there = [path for pattern in patterns for path in sorted(self.out.glob(pattern))]
        if there and not self.force:
            raise UsageError(f"{there[0]} is there already: --force writes over it")

    def _methods(self, subject: "Subject") -> list[str]:
        """The methods that the network has. UsageError: it lacks one that was asked for, or the layer."""
        from flaxarch.explain.methods import lack

        if self.layer is not None:
            try:
                subject.program.layer(self.layer)
            except ValueError as error:
                raise UsageError(f"{error}") from error
        lacking = {method: lack(subject, method) for method in self.methods}
        for method, reason in lacking.items():
            is_asked_for = self.methods != _DEFAULT or (self.layer is not None and method in _WITH_LAYER)
            if reason and is_asked_for:
                raise UsageError(reason)
            if reason:
                remark(f"without {method}: {reason}")
        return [method for method, reason in lacking.items() if not reason]


def class_number(given: str, names: Sequence[str]) -> int:
    """The class that is meant by a number, a name, or a part that one name alone has. Raises UsageError."""
    if given.removeprefix("-").isdecimal() and given not in names:
        if not 0 <= int(given) < len(names):
            raise UsageError(f"there is no class {given}: they are numbered from 0 to {len(names) - 1}")
        return int(given)
    lower = [name.casefold() for name in names]
    same = [i for i, name in enumerate(lower) if name == given.casefold()]
    alike = same or [i for i, name in enumerate(lower) if given and given.casefold() in name]
    if len(alike) == 1:
        return alike[0]
    if alike:
        some = ", ".join(names[i] for i in alike[:4])
        raise UsageError(
            f"{given!r} may mean {some}{' and more' if len(alike) > 4 else ''}: name one of them"
        )
    near = difflib.get_close_matches(given.casefold(), lower, n=3)
    hint = f": did you mean {', '.join(names[lower.index(x)] for x in near)}?" if near else ""
    raise UsageError(f"there is no class {given!r}{hint}")


def _prepared(paths: Sequence[Path], subject: "Subject") -> "Iterator[tuple[str, np.ndarray | str]]":
    """Name of each picture, and what the network reads of it, or why it cannot."""
    from flaxarch.preprocess import preprocess_as

    prepare, mode = preprocess_as(subject.row), "L" if subject.row.input_shape[2] == 1 else "RGB"
    for picture in chain.from_iterable(map(pictures.read, paths)):
        if picture.problem:
            yield picture.name, picture.problem
            continue
        try:
            yield picture.name, prepare(pictures.decode(picture.content, mode))
        except ValueError as error:  # UnreadablePicture, or too narrow to be cropped
            yield picture.name, str(error)


def _document(found: "Found") -> dict[str, Any]:
    document = found._asdict()
    return {"class" if key == "number" else key: value for key, value in document.items()}


def _line(found: "Found") -> str:
    """What is printed of a picture."""
    share = "" if found.probability is None else f"{100 * found.probability:6.2f} %  "
    return f"{found.path}  {share}{found.name}"
