"""Forms of one computation, timed in turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def least_milliseconds(
    forms: Mapping[str, Callable[..., Any]],
    args: tuple[Any, ...],
    repeats: int,
    check: Callable[[str, Any], None],
) -> dict[str, float]:
    """The least time of each form in so many repeats, after a call that compiles, whose result is checked.

    A, B, C, A, B, C: what else the machine does meets all of them.
    """
    functions = {name: jax.jit(form) for name, form in forms.items()}
    for name, function in functions.items():
        check(name, jax.block_until_ready(function(*args)))
    times = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*args))
            times[name] = min(times[name], round(1000 * (time.perf_counter() - start), 2))
    return times
