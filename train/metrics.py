"""What a run measures of itself: rows in metrics.jsonl and TensorBoard, speed, floating-point operations."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from flaxarch import ops
from train.workdir import write_atomically, writing

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl, less a last one that was cut off; none where there is no file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:  # killed while writing it
            break
    return rows


def await_row(path: Path, row: Row, seconds: float = 10.0) -> bool:
    """Whether another process writes `row` within that time, clocks aside; of an empty one that is so."""
    until = time.monotonic() + seconds
    while row and (row["step"], row["kind"]) not in ((x["step"], x["kind"]) for x in read_rows(path)[-3:]):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


class MetricsFile:
    """The rows up to `step`, the step that a run continues from, and after them those to come.

    With `untested`, that step is still to be evaluated, and its rows of evaluations are left out. Of several
    processes one has a path, and the others write nothing. With `tensorboard`, a folder, the numbers go there
    too; it needs tensorboardX.
    """

    def __init__(
        self, path: Path | None, step: int, tensorboard: Path | None = None, *, untested: bool = False
    ) -> None:
        self._file = self._events = None
        if path is None:
            return
        kept = [row for row in read_rows(path) if row["step"] <= step]
        if untested:
            kept = [row for row in kept if row["step"] < step or row["kind"] == "train"]
        self._path = path
        with writing(path):
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
            self._file = path.open("a", encoding="utf-8")
        if tensorboard is not None:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(tensorboard), purge_step=step + 1)

    @property
    def is_open(self) -> bool:
        """Whether rows are written by this process."""
        return self._file is not None

    def write(self, row: Row) -> None:
        """Adds a row."""
        if self._file:
            with writing(self._path):
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
        if self._events:
            for name, value in row.items():
                if name not in ("kind", "step") and value is not None:
                    self._events.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def sync(self) -> None:
        """Rows are on the disk after this: call it before the checkpoint that counts on them."""
        if self._file:
            with writing(self._path):
                os.fsync(self._file.fileno())
        if self._events:
            self._events.flush()

    def close(self) -> None:
        """Ends writing."""
        if self._file:
            with writing(self._path):
                self._file.close()
        if self._events:
            self._events.close()


class Stopwatch:
    """Speed between rows, compilation, evaluation and checkpoints left out."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._steps = 0
        self._seconds = 0.0
        self._waited = 0.0
        self._started: float | None = None

    def next_of(self, batches: Iterator[Any]) -> Any:
        """The next batch; the time from asking for it to having it counts as waiting for input."""
        asked = time.perf_counter()
        batch = next(batches)
        if self._started is not None:
            self._waited += time.perf_counter() - asked
        return batch

    def start(self) -> None:
        """Steps that follow are timed."""
        if self._started is None:
            self._started = time.perf_counter()

    def step(self) -> None:
        """A step was made."""
        self._steps += self._started is not None

    def stop(self) -> None:
        """What follows is not timed. All steps have to be finished on the devices."""
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    def lap(self) -> dict[str, float | None]:
        """Since the last lap: images a second, seconds a step, share of the time spent waiting for input.

        None without a timed step.
        """
        rate = seconds = wait = None
        if self._steps:
            rate = round(self._steps * self._batch_size / self._seconds, 1)
            seconds = round(self._seconds / self._steps, 6)
            wait = round(self._waited / self._seconds, 4)
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        return {"images_per_second": rate, "step_seconds": seconds, "input_wait": wait}


class Trace:
    """A trace of some steps, in a folder, for TensorBoard's or Perfetto's profiler."""

    def __init__(self, folder: Path, steps: range) -> None:
        self._folder, self._steps = folder, steps
        self._runs = False

    def before(self, step: int) -> None:
        """The trace begins here, or ends, or neither."""
        if self._runs != (step in self._steps):
            self._toggle()

    def close(self) -> None:
        """Ends the trace, if it runs."""
        if self._runs:
            self._toggle()

    def _toggle(self) -> None:
        self._runs = not self._runs
        if self._runs:
            jax.profiler.start_trace(self._folder)
        else:
            jax.profiler.stop_trace()


# Dense bfloat16 operations a second (float16 where there is no bfloat16), as the makers print them; of one
# device as JAX counts them, which in TPU v2 and v3 is half a chip.
_PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A10G": 70e12,
    "Tesla T4": 65e12,
    "Tesla V100": 125e12,
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Floating-point operations that a device can do in a second; None where it is not known here."""
    kinds = [kind for kind in _PEAKS if device_kind.startswith(kind)]
    return _PEAKS[max(kinds, key=len)] if kinds else None


def count_flops(fn: Any, *arguments: Any) -> float:
    """Floating-point operations of fn(*arguments), arrays or their shapes, by XLA's cost analysis.

    Traced for CPU whatever the devices are: elsewhere JAX has no analysis ahead of compilation, and one
    after it leaves out what the vendor's library computes. Loops of fixed length count as often as they run,
    where the analysis takes them for one pass. 0 where JAX has no CPU.
    """
    try:
        (cpu, *_) = jax.local_devices(backend="cpu")
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return 0.0
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    with ops.use_native_forms(True), jax.default_device(cpu):
        return _flops(jax.make_jaxpr(fn)(*shapes))


def _flops(program: ClosedJaxpr) -> float:
    """With each loop as often as it runs."""
    each = [(length, body, _flops_of_one_pass(body)) for length, body in _loops(program.jaxpr)]
    return _flops_of_one_pass(program) + sum(n * _flops(body) - once for n, body, once in each)


def _flops_of_one_pass(program: ClosedJaxpr) -> float:
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.in_avals]
    found: Any = jax.jit(jaxpr_as_fun(program)).lower(*shapes).cost_analysis()
    return float((found or {}).get("flops", 0.0))


def _loops(jaxpr: Any) -> Iterator[tuple[int, ClosedJaxpr]]:
    """How often each loop of fixed length runs, and its body; those within loops are left to these."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield eqn.params["length"], eqn.params["jaxpr"]
            continue
        for inner in (eqn.params.get("jaxpr"), eqn.params.get("call_jaxpr")):
            if inner is not None:
                yield from _loops(getattr(inner, "jaxpr", inner))


def step_flops(train_step: Any, state: Any, batch: Any, teacher: Any = None) -> float:
    """Floating-point operations of one step, by XLA's cost analysis of the traced step.

    A multiply-add counts two. Convolutions count as in `lax`'s own form, whatever form the devices run.
    `batch` is this process's share; the operations are those of the whole batch. 0 where JAX has no CPU to
    trace for.
    """
    num_processes = jax.process_count()
    state, teacher = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, teacher))
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(x) * num_processes, *x.shape[1:]), x.dtype), batch
    )

    def step(state: Any, batch: Any, teacher: Any) -> Any:
        return train_step(state, batch, teacher=teacher)

    return count_flops(step, state, batch, teacher)


def utilisation(flops: float, seconds: float | None) -> float | None:
    """Share of what all devices could do in these seconds; None where they, or their peak, are not known."""
    peak = peak_flops(jax.devices()[0].device_kind)
    return None if peak is None or not seconds else round(flops / seconds / (peak * jax.device_count()), 4)
