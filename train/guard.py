"""What keeps a run from harm: one process at a time in its folder, and an orderly end on SIGTERM."""

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from train.config import ConfigError


class Stopped(Exception):  # nothing went wrong
    """SIGTERM ended the run; the message says after which step, if it had begun."""


@contextmanager
def sole_run(run_dir: Path) -> Iterator[None]:
    """Within this no other process trains in the folder. The system ends it with the process, however killed.

    Raises ConfigError where another one does.
    """
    with (run_dir / "config.json").open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{run_dir} is in use by another process; wait for it, or choose another workdir"
            ) from error
        except OSError:  # the file system has no locks
            pass
        yield


@contextmanager
def stoppable() -> Iterator[None]:
    """Within this SIGTERM raises Stopped, until `Stop` listens: there is nothing yet to be saved."""

    def stop(*_: object) -> None:
        raise Stopped("stopped")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Stop:
    """Whether the run is to end after a step: SIGTERM was sent to it, or to another process of it."""

    def __init__(self) -> None:
        self._asked = False
        self._calls = 0

    def after_step(self) -> bool:
        """Whether this step is to be the last one, in every process of the run; to be asked after each."""
        if jax.process_count() == 1:
            return self._asked
        # JAX lets all stop at the call after the highest number that one has given when the signal comes, and
        # takes 0 as given before the first. So these are not the steps: one that is resumed would never stop.
        self._calls += 1
        return multihost_utils.reached_preemption_sync_point(self._calls)

    def _ask(self, *_: object) -> None:
        self._asked = True

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Within this SIGTERM ends the run after a step, in place of at once."""
        if jax.process_count() > 1:  # JAX listens, so that all stop after the same step
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)
