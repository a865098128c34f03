"""Batch norm's sums on CPU in several forms, shape by shape.

    python -m benchmarks.batch_norm [--keep]

"moments" are the sums over all pixels of x - center and of its square, "products" those of a and of
a * (x - center), which the gradient takes. "two sums" are XLA's own, one after the other; "one loop" is a
reduction of both along the rows of pixels, and what remains summed up; "ours" does that along pieces of 14
pixels (`flaxarch.ops.sums`), and "of 8" and "of 16" along such pieces. Least of fifteen, taken in turns, in
milliseconds. `--keep` writes `benchmarks/results/batch_norm.json`, in `docs/speed.md`.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import hardware
from benchmarks.turns import least_milliseconds
from flaxarch import ops
from flaxarch.ops import norm, sums

KEPT = Path(__file__).parent / "results" / "batch_norm.json"
# Of MobileNet, the ResNets and ResNet-20.
SHAPES = (
    *((16, 112, 112, channels) for channels in (32, 64)),
    *((16, 56, 56, channels) for channels in (64, 256)),
    *((16, size, size, channels) for size, channels in ((28, 128), (14, 1024), (7, 512))),
    *((128, size, size, channels) for size, channels in ((32, 16), (16, 32), (8, 64))),
)
FORMS = ("ours", "two sums", "one loop", "of 8", "of 16")
Form = Callable[..., jax.Array]


def _forms(of: str) -> dict[str, Form]:
    """From (a, x, center)."""
    moments = of == "moments"

    def terms(a: jax.Array, x: jax.Array, center: jax.Array) -> tuple[jax.Array, jax.Array]:
        offset = x - center
        return (offset, offset * offset) if moments else (a, a * offset)

    def library(*arrays: jax.Array) -> jax.Array:
        return norm._sums(*arrays[1:]) if moments else norm._products(*arrays)

    def of_pieces(size: int, *arrays: jax.Array) -> jax.Array:
        rows = [term.reshape(-1, size, term.shape[-1]) for term in terms(*arrays)]
        return jnp.stack(sums._over_rows(rows))

    return {
        "ours": library,
        "two sums": lambda *arrays: jnp.stack([t.sum((0, 1, 2)) for t in terms(*arrays)]),
        "one loop": lambda *arrays: jnp.stack(sums._over_rows(terms(*arrays))),
        "of 8": partial(of_pieces, 8),
        "of 16": partial(of_pieces, 16),
    }


def main() -> None:
    """Time all shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    ops.keep_freed_memory()
    rows = []
    for shape in SHAPES:
        for of in ("moments", "products"):
            rows.append({"shape": "x".join(map(str, shape)), "of": of, **measure(of, shape)})
            print(json.dumps(rows[-1]), flush=True)
    if args.keep:
        kept = {"hardware": hardware.cores(), "jax": version("jax"), "rows": rows}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def measure(of: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Milliseconds of each form, which must agree with the formula in float64."""
    rng = np.random.default_rng(0)
    a, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    center = jnp.asarray(rng.normal(size=shape[-1]), jnp.float32)
    exact_a, offset = np.asarray(a, np.float64), np.asarray(x, np.float64) - np.asarray(center, np.float64)
    exact = (offset, offset**2) if of == "moments" else (exact_a, exact_a * offset)
    exact = np.stack([term.sum((0, 1, 2)) for term in exact])

    def check(name: str, found: jax.Array) -> None:
        if np.abs(found - exact).max() > 1e-4 * np.abs(exact).max():
            raise AssertionError(f"{name} has other {of}")

    return least_milliseconds(_forms(of), (a, x, center), 15, check)


def table() -> str:
    """What is kept."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    lines = [
        f"{kept['hardware']}, jax {kept['jax']}, ms: `python -m benchmarks.batch_norm`.",
        "",
        f"| shape | of | {' | '.join(FORMS)} |",
        f"|{' --- |' * (len(FORMS) + 2)}",
    ]
    for row in kept["rows"]:
        cells = (f"{row[name]:.3g}" for name in FORMS)
        lines.append(f"| {row['shape']} | {row['of']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
