"""Runs of several processes: how they find one another, and what is said when one of them is lost.

JAX ends every process of a run when one dies. It does so from outside Python, so each process trains in a
child of its own, and the parent says what happened.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

import jax

from train.config import Config, ConfigError

_HEARTBEAT_SECONDS = 20  # without a sign of life from a process, until the others end
_START_SECONDS = 120  # to wait for all processes


def is_distributed(config: Config) -> bool:
    """Whether the run has, or may have, other processes."""
    return config.distributed or config.coordinator is not None


def connect(config: Config) -> None:
    """Joins the other processes of the run. Raises ConfigError where they are not found."""
    if not is_distributed(config):
        return
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.num_processes,
            config.process_id,
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the processes of this run did not come together: {reason}") from error


def supervised(run: Callable[[], int]) -> int:
    """Runs in a child process, hands it the signals that end a run, and explains how it ended.

    Returns the exit status of `run`, or 1 where the child was killed. Call it before JAX has any device.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = run()
        except BaseException:  # nothing is left above to show it
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def forward(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        name = signal.Signals(-status).name
        print(
            f"error: this process was ended by {name}, as JAX does when another process of the run is lost; "
            "start all processes again, and they continue from the last checkpoint",
            file=sys.stderr,
        )
        return 1
    return status
