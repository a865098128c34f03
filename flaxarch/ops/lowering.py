"""Which form of an operation is traced: `lax`'s own, or one that XLA's CPU backend runs fast.

XLA compiles convolution and pooling well for GPU and TPU. On CPU it is up to hundreds of times slower than
it need be for grouped convolutions and for gradients of max-pooling, and reads more often than it need what
batch norm sums up, so these are written there in terms of operations that it compiles well, some of them
apart from what is around them. Both forms compute the same values, to rounding, from the same arguments.

The choice is made while tracing, from the default backend: `lax.platform_dependent` would put a conditional
around every convolution, in each jaxpr and each exported program.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

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


def apart(form: Callable[..., Any], static: Sequence[int] = (2,)) -> Callable[..., Any]:
    """`form`, which XLA's CPU backend compiles apart from what is around it.

    What it is given is computed before, once, and written down, and so is what it gives. Otherwise XLA would
    rather compute batch norm and activation anew wherever they are read, though it be nine times, or across
    the grain of the memory; what a reduction is fused with, it does number by number.
    `lax.optimization_barrier` is gone before XLA fuses; a call that is not to be inlined stays.

    Args:
      form: of arrays, and static arguments.
      static: positions of these.
    """

    @partial(jax.jit, static_argnums=static)
    @wraps(form)
    def compiled(*args: Any) -> Any:
        with set_xla_metadata(inlineable="true"):  # for calls in it
            return form(*args)

    @wraps(form)
    def call(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return compiled(*args)

    return call
