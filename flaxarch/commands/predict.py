"""`flaxarch predict`: the likeliest classes of pictures, by the weights in a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.text import Text

import flaxarch
from flaxarch import pictures
from flaxarch.commands.base import Command, UsageError, print_json, printable, remark, stdout
from flaxarch.commands.classes import class_names
from flaxarch.commands.progress import progress


@dataclass(frozen=True)
class Predict(Command):
    """Names what is in pictures: the likeliest classes of each, with their probabilities (softmax).

    Pictures are brought to the network's input as the checkpoint, or else its row, says. One that cannot be
    read is named and passed over; the exit status is 1 then.
    """

    paths: tyro.conf.Positional[tuple[str, ...]]
    """Pictures, folders, tars (.tar, .tar.gz, .tgz), or patterns in quotes as "photos/*.jpg"."""
    weights: Path
    """A checkpoint of torchvision, timm, Keras or pytorchcv, or one that flaxarch wrote."""
    name: str | None = None
    """Which network it is, where the file does not tell; one of those that `flaxarch list` shows."""
    top: int = 5
    """Classes to show of each picture."""
    classes: Path | None = None
    """File with the names of the classes, one a line; else the checkpoint's, or those of its data set."""
    batch_size: int = 32
    """Pictures that go through the network together."""

    def run(self) -> int:
        """Prints the classes, in the order of the pictures."""
        for flag, number in (("--top", self.top), ("--batch-size", self.batch_size)):
            if number < 1:
                raise UsageError(f"{flag} is {number}: it has to be at least 1")
        if not self.paths:
            raise UsageError("there is nothing to predict: give pictures, folders or tars")
        paths = pictures.find(self.paths)
        from flaxarch import ops  # brings JAX
        from flaxarch.commands.batches import results, row_of

        ops.prepare_memory()

        found = flaxarch.convert.recognise(self.weights, self.name)
        row = row_of(found, self.weights.name)
        names, origin = class_names(found, flaxarch.published(found.name), self.classes)
        model, variables = flaxarch.load(self.weights, self.name)
        remark(f"{self.weights}: {found}; names of classes: {origin}")

        documents, unreadable, num_named = [], [], 0
        with progress(paths, in_sight=stdout().is_terminal and not self.json) as (advance, say):
            for result in results(paths, model, variables, row, min(self.top, len(names)), self.batch_size):
                advance()
                if result.problem:
                    unreadable.append({"path": result.name, "problem": result.problem})
                    say(f"not readable: {result.name} ({result.problem})")
                    continue
                num_named += 1
                top = [{"class": i, "name": names[i], "probability": p} for i, p in result.top]
                if self.json:
                    documents.append({"path": result.name, "top": top})
                else:
                    _print(result.name, top)
        if not num_named and not unreadable:
            raise UsageError(f"there is no picture in {', '.join(map(str, paths))}")
        if self.json:
            document = {"weights": str(self.weights), "name": found.name, "classes": origin}
            print_json(document | {"pictures": documents, "unreadable": unreadable})
        if unreadable:
            remark(f"{len(unreadable)} of {num_named + len(unreadable)} pictures could not be read")
        return 1 if unreadable else 0


def _print(name: str, top: Sequence[dict[str, Any]]) -> None:
    """A line for the picture and one for each class; one line where there is one class."""
    classes = [f"{100 * x['probability']:6.2f} %  {printable(x['name'])}" for x in top]
    title = Text(printable(name), "bold")
    if len(classes) == 1:
        stdout().print(title.append(f"  {classes[0]}", "not bold"))
        return
    stdout().print(title)
    for line in classes:
        stdout().print(f"  {line}")
