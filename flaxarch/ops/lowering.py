"""Which form of an operation is traced: `lax`'s own, or one that XLA's CPU backend runs fast.

XLA compiles convolution and pooling well for GPU and TPU. On CPU it is up to hundreds of times slower than
it need be for grouped convolutions and for gradients of max-pooling, and reads more often than it need what
batch norm sums up, so these are written there in terms of operations that it compiles well. Both forms
compute the same values, to rounding, from the same arguments.

The choice is made while tracing, from the default backend: `lax.platform_dependent` would put a conditional
around every convolution, in each jaxpr and each exported program.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_forced: ContextVar[bool | None] = ContextVar("flaxarch_native_forms", default=None)


def native_forms() -> bool:
    """Whether operations are traced as `lax`'s own (any backend but CPU, or as `use_native_forms` says)."""
    forced = _forced.get()
    return jax.default_backend() != "cpu" if forced is None else forced


@contextmanager
def use_native_forms(native: bool) -> Iterator[None]:
    """Trace the enclosed code with `lax`'s own forms, or with the CPU's, whatever the backend.

    For exporting a GPU or TPU program from a CPU, and for comparing the two. A function that was jitted
    before keeps the form that it was traced with.
    """
    token = _forced.set(native)
    try:
        yield
    finally:
        _forced.reset(token)
