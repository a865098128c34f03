"""`flaxarch train`: `prepare` is an entry point, by which the library need know no trainer."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from flaxarch.commands.base import UsageError, print_json
from train import __main__ as trainer
from train.config import ConfigError


def prepare(words: Sequence[str], parse: Callable[[Callable[[], Any]], Any]) -> Callable[[], int] | None:
    """What trains as the flags say, and gives the exit status; None where help was asked for.

    `parse` calls what it is given, which parses by tyro, and turns its ends into errors.
    """
    own = {"--json", "--debug"}
    flags = [word for word in words if word not in own]
    try:
        config = parse(partial(trainer.parsed, flags, "flaxarch train"))
    except ConfigError as error:
        raise UsageError(str(error)) from error
    if config is None:
        return None
    if "--json" not in words:
        return partial(trainer.run, config)

    def tell(accuracy: float) -> None:
        best = config.run_dir / "best.safetensors"
        document = {
            "model": config.model,
            "accuracy": accuracy,
            "workdir": str(config.run_dir),
            "best": str(best) if best.exists() else None,
        }
        print_json(document)
        sys.stdout.flush()  # a child process of a run on many hosts ends at once

    return partial(trainer.run, config, Console(stderr=True), tell)
