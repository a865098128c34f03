"""`python -m train`: flags to a run, errors to one sentence and an exit status."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from logging import CRITICAL, getLogger
from pathlib import Path

import jax
import tyro
from absl import logging
from rich.console import Console

from flaxarch import ops
from train.checkpoint import CheckpointError
from train.config import Config, ConfigError
from train.data import DataError
from train.distributed import connect, is_distributed, supervised
from train.guard import Stopped, stoppable
from train.loop import TrainingError, train
from train.recipes import recipe_config


def main() -> int:
    """The exit status, as of `run`."""
    try:
        config = parsed(sys.argv[1:], "python -m train")
    except ConfigError as error:
        return _fail(error, 2)
    return run(config)


def parsed(words: Sequence[str], program: str) -> Config:
    """The configuration that flags ask for; ends as tyro does. Raises ConfigError for an unknown recipe."""
    return tyro.cli(Config, prog=program, default=_default(words), args=words)


def run(
    config: Config, console: Console | None = None, tell: Callable[[float], None] = lambda accuracy: None
) -> int:
    """Trains; the exit status. `tell` gets the final accuracy, in the process that writes the run's files.

    0: trained or finished before, or stopped by SIGTERM and saved; 1: the run broke off; 2: it cannot be run
    as asked; 130: interrupted.
    """
    ops.prepare_memory()
    work = partial(_run, config, console, tell)
    return supervised(work) if is_distributed(config) else work()


def _default(words: Sequence[str]) -> Config:
    """What flags stand for that are not given: the recipe's, where one is named, or the defaults."""
    for word, following in pairwise([*words, ""]):
        if word == "--recipe":
            return recipe_config(following)
        if word.startswith("--recipe="):
            return recipe_config(word.removeprefix("--recipe="))
    return Config()


def _run(config: Config, console: Console | None, tell: Callable[[float], None]) -> int:
    logging.set_verbosity(logging.FATAL)  # Orbax and grain tell of their doings, and log what they raise
    getLogger("asyncio").setLevel(CRITICAL)  # of writes that fail, all but one are nobody's
    _set_up_compilation_cache(config.compilation_cache)
    try:
        with stoppable():
            connect(config)
            accuracy = train(config, console)
        if jax.process_index() == 0:
            tell(accuracy)
    except Stopped as stopped:
        print(f"{stopped}; the same command continues this run", file=sys.stderr)
    except (ConfigError, DataError) as error:
        return _fail(error, 2)
    except (TrainingError, CheckpointError, OSError) as error:  # OSError: a full disk, say
        return _fail(error, 1)
    except jax.errors.JaxRuntimeError as error:
        if not (is_distributed(config) and "Connection" in str(error)):
            raise
        lost = "the connection to another process of the run is lost, which has ended or is out of reach"
        return _fail(f"{lost}; start all processes again, and they continue from the last checkpoint", 1)
    except KeyboardInterrupt:
        print("stopped; the same command continues this run", file=sys.stderr)
        return 130
    return 0


def _fail(error: Exception | str, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def _set_up_compilation_cache(wanted: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", wanted)
    if wanted and "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # which JAX reads by itself
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "flaxarch" / "xla"))


if __name__ == "__main__":
    sys.exit(main())
