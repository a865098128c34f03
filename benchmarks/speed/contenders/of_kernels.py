"""Ourselves with the native kernels for CPU: the extra `cpu`."""

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders import Prepared, of_flaxarch
from flaxarch import ops


def prepare(case: Case, path: str) -> Prepared:
    """Raises RuntimeError where there are none."""
    ops.prepare_memory()  # before JAX has any device
    with ops.use_cpu_kernels():
        if not ops.cpu_kernels():
            raise RuntimeError("no native kernels here")
        return of_flaxarch.prepare(case, path)
