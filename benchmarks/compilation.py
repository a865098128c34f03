"""What deep networks take to compile: blocks of one shape in a loop beside blocks written out.

    python -m benchmarks.compilation [--depths 20 56 110 1001] [--unrolled-until 110] [--keep]

Networks of bottleneck units, He et al. 2016b, of these depths (9 n + 2); a training step with momentum. The
loop runs over stacked variables. Program: the text that JAX lowers, in MB; instructions: of what XLA compiles
it to. Step: the least of five, taken in turns where both forms are measured. Beware of 1001 layers written
out: compiling them for CPU took more than 18 GB of memory. `--keep` writes
`benchmarks/results/compilation.json`, which is a table of `docs/speed.md`.
"""

import argparse
import json
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import flaxarch
from benchmarks import hardware
from benchmarks.speed.contenders.on_jax import OPTIMIZER, filled
from flaxarch.loops import stack_blocks
from flaxarch.models.preact_resnet import bottleneck_sizes
from train.step import init_state, make_train_step

KEPT = Path(__file__).parent / "results" / "compilation.json"


def main() -> None:
    """Measure all depths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--depths", nargs="+", type=int, default=[20, 56, 110, 1001])
    parser.add_argument("--unrolled-until", type=int, default=110, help="the last depth in both forms")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    device = jax.devices()[0]
    kind = hardware.cores() if device.platform == "cpu" else device.device_kind
    rows = []
    for depth in args.depths:
        for row in measure(depth, args.batch_size, both=depth <= args.unrolled_until):
            print(json.dumps(row), flush=True)
            rows.append(row)
        if args.keep:
            kept = {"hardware": kind, "jax": version("jax"), "batch": args.batch_size, "rows": rows}
            KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def measure(depth: int, batch_size: int, *, both: bool) -> list[dict[str, Any]]:
    """A row for the loop, and one for the blocks written out."""
    row = flaxarch.published("preact_resnet164")
    model = flaxarch.create("preact_resnet164")
    model = model.clone(stage_sizes=bottleneck_sizes(depth))  # pyright: ignore[reportCallIssue]
    state = jax.eval_shape(lambda: init_state(model, OPTIMIZER, 0, row.input_shape))
    batch = {
        "image": jnp.zeros((batch_size, *row.input_shape), jnp.uint8),
        "label": jnp.zeros(batch_size, jnp.int32),
        "mask": jnp.ones(batch_size),
    }
    found, steps, states = [], [], []
    for scan in (True, False) if both else (True,):
        loop_or_not = model.clone(scan=scan)  # pyright: ignore[reportCallIssue]
        step = make_train_step(loop_or_not, OPTIMIZER, seed=0, mean=row.mean, std=row.std)
        of_form = partial(stack_blocks, model) if scan else lambda state: state
        shapes = jax.eval_shape(of_form, state)
        start = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=0).lower(shapes, batch)
        traced = time.perf_counter()
        steps.append(lowered.compile())
        compiled = time.perf_counter()
        states.append(of_form(filled(state)))
        found.append(
            {
                "depth": depth,
                "form": "loop" if scan else "written out",
                "program_mb": round(len(lowered.as_text()) / 1e6, 2),
                "instructions": steps[-1].as_text().count(" = "),
                "trace_seconds": round(traced - start, 1),
                "compile_seconds": round(compiled - traced, 1),
                "step_seconds": float("inf"),
            }
        )
    for repeat in range(6):
        for i, entry in enumerate(found):
            start = time.perf_counter()
            states[i], _ = jax.block_until_ready(steps[i](states[i], batch))
            if repeat:
                entry["step_seconds"] = min(entry["step_seconds"], round(time.perf_counter() - start, 3))
    return found


def table() -> str:
    """What is kept."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    lines = [
        f"{kept['hardware']}, jax {kept['jax']}, batches of {kept['batch']}:",
        "`python -m benchmarks.compilation`.",
        "",
        "| depth | blocks of one shape | program, MB | instructions | tracing, s | compiling, s | step, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in kept["rows"]:
        lines.append(f"| {' | '.join(str(x) for x in row.values())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
