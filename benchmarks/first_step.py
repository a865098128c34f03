"""What it takes until a network trains: seconds and peak memory of init, compilation and a step, on CPU.

    python -m benchmarks.first_step preact_resnet1001 --scan --keep

`--keep` adds the row to `benchmarks/results/first_step.json`.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flaxarch
from train.step import init_state, make_train_step

KEPT = Path(__file__).parent / "results" / "first_step.json"


def main() -> None:
    """Measure one network in this process, which should have done nothing else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--scan", action="store_true", help="units of one shape in a loop")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()

    row = flaxarch.published(args.name)
    model = flaxarch.create(args.name)
    if args.scan:
        model = model.clone(scan=True)  # pyright: ignore[reportCallIssue]
    tx = optax.sgd(0.1, momentum=0.9)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (args.batch_size, *row.input_shape), dtype=np.uint8),
        "label": rng.integers(0, row.num_classes, args.batch_size),
        "mask": np.ones(args.batch_size, np.float32),
    }
    found: dict[str, dict[str, float]] = {}

    @contextmanager
    def measured(phase: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        seconds = time.monotonic() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found[phase] = {"seconds": round(seconds, 1), "peak_gib": round(peak, 2)}
        print(f"{phase}: {seconds:.1f} s, peak {peak:.2f} GiB", flush=True)

    with measured("init"):
        state = jax.block_until_ready(init_state(model, tx, 0, row.input_shape))
    step = jax.jit(make_train_step(model, tx, seed=0, mean=row.mean, std=row.std), donate_argnums=0)
    with measured("trace"):
        lowered = step.lower(state, batch)
    with measured("compile"):
        compiled = lowered.compile()
    losses = []
    for phase in ("first step", "second step"):
        with measured(phase):
            state, metrics = jax.block_until_ready(compiled(state, jax.tree.map(jnp.asarray, batch)))
        losses.append(float(metrics["loss"]) / args.batch_size)
    print("losses", losses)

    if args.keep:
        name = f"{args.name}, batch {args.batch_size}" + (", scan" if args.scan else "")
        about = {"cores": os.cpu_count(), "jax": version("jax"), "losses": losses, "phases": found}
        kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
        KEPT.write_text(json.dumps(kept | {name: about}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
