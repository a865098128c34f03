"""`of_NAME` for each contender, with `prepare(case, path) -> Prepared`, imported in its own process only."""

from collections.abc import Callable
from typing import NamedTuple


class Prepared(NamedTuple):
    """A network that is compiled, and has done one step."""

    run: Callable[[int], None]  # so many steps; returns when the device has done them
    compile_seconds: float
    peak_bytes: Callable[[], float | None]  # of the device's memory until now; None: the process's counts
    flops: float | None = None  # of a step, by XLA's count
    device: str = ""
