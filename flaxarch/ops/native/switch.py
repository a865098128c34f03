"""Whether the kernels are asked for, and there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from flaxarch.ops.lowering import native_forms
from flaxarch.ops.native.build import available

_asked: ContextVar[bool | None] = ContextVar("flaxarch_cpu_kernels", default=None)


def cpu_kernels() -> bool:
    """Whether operations are traced as calls of the kernels: on CPU, asked for, and built."""
    return wants_cpu_kernels() and not native_forms() and available()


def wants_cpu_kernels() -> bool:
    """Whether they are asked for, here or elsewhere; JAX is not asked for its devices.

    By `use_cpu_kernels`, or for the whole process by FLAXARCH_CPU_KERNELS=1 in the environment.
    """
    asked = _asked.get()
    return os.environ.get("FLAXARCH_CPU_KERNELS", "0") not in ("", "0") if asked is None else asked


@contextmanager
def use_cpu_kernels(wanted: bool = True) -> Iterator[None]:
    """Trace the enclosed code with oneDNN's kernels for convolution, or without.

    The first use builds them, in some ten seconds, and keeps them in the user's cache. Where that fails, a
    warning says why, and all goes on without. A function that was jitted before keeps the form that it was
    traced with. A program that is to run elsewhere must be exported without: it would call what is not there.
    """
    token = _asked.set(wanted)
    try:
        yield
    finally:
        _asked.reset(token)
