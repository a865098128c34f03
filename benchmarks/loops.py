"""Gradients of convolutions inside a conditional, as loops and stochastic depth have them: lax's and ours.

    python -m benchmarks.loops [--keep]

Each is timed by itself and within `lax.cond`, in turn; the least of five, in milliseconds. `--keep` writes
`benchmarks/results/loops.json`.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flaxarch.ops import conv_general_dilated

KEPT = Path(__file__).parent / "results" / "loops.json"
# batch, size, channels, features, stride, of a 3x3
SHAPES = ((64, 16, 8, 8, 1), (64, 32, 16, 16, 1), (64, 16, 16, 32, 2), (16, 14, 256, 256, 1))
FORMS = {"lax": lax.conv_general_dilated, "flaxarch": conv_general_dilated}


def main() -> None:
    """Time all shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    found: dict[str, Any] = {"cores": os.cpu_count(), "device": jax.devices()[0].device_kind}
    found["jax"] = version("jax")
    for shape in SHAPES:
        found["{}x{}x{}x{}, {} features, stride {}".format(*shape[:2], *shape[1:])] = times = measure(*shape)
        print(shape, json.dumps(times), flush=True)
    if args.keep:
        KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(batch: int, size: int, channels: int, features: int, stride: int) -> dict[str, float]:
    """Milliseconds of both gradients of a padded 3x3, by form and place."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (batch, size, size, channels))
    w = jax.random.normal(keys[1], (3, 3, channels, features))
    functions: dict[str, Callable[..., Any]] = {}
    for name, form in FORMS.items():
        gradients = partial(_gradients, form, stride)
        functions[name] = jax.jit(gradients)
        functions[f"{name}, in cond"] = jax.jit(
            lambda x, w, gradients=gradients: lax.cond(x[0, 0, 0, 0] < 1e9, gradients, lambda *a: a, x, w)
        )
    times = dict.fromkeys(functions, float("inf"))
    for repeat in range(6):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(x, w))
            if repeat:  # the first compiles
                times[name] = min(times[name], round(1000 * (time.perf_counter() - start), 2))
    return times


def _gradients(form: Any, stride: int, x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        y = form(x, w, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sin(y).sum()

    return jax.grad(loss, (0, 1))(x, w)


if __name__ == "__main__":
    main()
