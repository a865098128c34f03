"""Memory that a computation gives back stays with the process, on a CPU."""

import ctypes
import os
from importlib.metadata import entry_points
from importlib.util import find_spec

import jax

# Of glibc's malloc.h, and what they are set to: never give memory back; never take it outside of the heap, to
# which freed memory would not return; one heap for all threads, for further ones are too small for a network.
_SETTINGS = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


def prepare_memory() -> None:
    """Keeps memory, as all commands do, unless FLAXARCH_KEEP_MEMORY=0 is in the environment."""
    if os.environ.get("FLAXARCH_KEEP_MEMORY", "1") not in ("", "0"):
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed, where all devices will be CPUs; whether it does.

    XLA takes the memory of a call anew each time, and gives it back: up to gigabytes, which the system would
    hand out page by page, each cleared before. That can be a quarter of the time of a training step. The
    process may take twice as much for it and more, since freed memory is not always of use for what comes
    next: `python -m benchmarks.kept_memory`. Call it before JAX has any device: threads that have a heap of
    their own keep that. Does nothing where there may be an accelerator, or a C library that is not glibc.
    """
    if not _only_cpus():
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(set_option(option, value) == 1 for option, value in _SETTINGS.values())


def _only_cpus() -> bool:
    if platforms := getattr(jax.config, "jax_platforms", None):
        return platforms == "cpu"
    return not entry_points(group="jax_plugins") and find_spec("libtpu") is None
