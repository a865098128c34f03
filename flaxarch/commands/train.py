"""`flaxarch train`: the trainer, by all flags of `python -m train`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from flaxarch.commands.base import Command, CommandError


@dataclass(frozen=True)
class Train(Command):
    """Trains a network: digits and a ResNet-20 where no flag says otherwise.

    Its flags are the trainer's own: `flaxarch train --help` shows all.
    """


def prepare(words: Sequence[str], parse: Callable[[Callable[[], Any]], Any]) -> Callable[[], int] | None:
    """What the trainer gives for these flags: it names itself as an entry point of the group."""
    found = [point for point in entry_points(group="flaxarch.commands") if point.name == "train"]
    if not found:
        raise CommandError("the trainer is not installed: pip install -e '.[train]' in flaxarch's repository")
    try:
        trainer = found[0].load()
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the trainer needs {error.name}, which is not installed: pip install 'flaxarch[train]'"
        ) from error
    return trainer(words, parse)
