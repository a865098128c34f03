"""Dense convolutions and their gradients on CPU in other forms than the library's, shape by shape.

    python -m benchmarks.convolutions [--keep]

"patches": a matrix product with the windows laid out side by side (im2col); "shifts": a sum of products, one
for each entry of the kernel; "windows": products into windows, which are added up where they lie (col2im).
"lax" is what JAX has for all three; "ours" the convolution in (N, H, W, C), gradients too, kept from YNNPACK
(`flaxarch.ops.dense`). Least of six, taken in turns, in milliseconds. `--keep` writes
`benchmarks/results/convolutions.json`, in `docs/speed.md`.
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
from jax import lax

from benchmarks import hardware
from benchmarks.turns import least_milliseconds
from flaxarch.ops import dense
from flaxarch.ops.dense import Geometry

KEPT = Path(__file__).parent / "results" / "convolutions.json"
# batch, size, channels, features, stride, of a 3x3: ResNet's at batches of 1 and 16, ResNet-20's, DenseNet's
SHAPES = (
    *((n, *shape) for n in (1, 16) for shape in ((56, 64, 64, 1), (28, 128, 128, 1), (56, 64, 128, 2))),
    *((n, *shape) for n in (1, 16) for shape in ((14, 256, 256, 1), (7, 512, 512, 1))),
    *((128, *shape) for shape in ((32, 16, 16, 1), (16, 32, 32, 1), (8, 64, 64, 1))),
    *((16, *shape) for shape in ((28, 128, 32, 1), (14, 128, 32, 1))),
)
Form = Callable[[jax.Array, jax.Array, Geometry], jax.Array]


def _shifted(x: jax.Array, geometry: Geometry, size: tuple[int, ...]) -> list[jax.Array]:
    """What each entry of the kernel sees: (N, H', W', C)."""
    x = jnp.pad(x, ((0, 0), *geometry.pads, (0, 0)))
    (height, width), (step_y, step_x) = size, geometry.strides
    ends = (height - 1) * step_y + 1, (width - 1) * step_x + 1
    rows, columns = geometry.kernel_size
    return [
        x[:, i : i + ends[0] : step_y, j : j + ends[1] : step_x] for i in range(rows) for j in range(columns)
    ]


def _size(geometry: Geometry) -> tuple[int, ...]:
    sizes = zip(geometry.input_size, geometry.kernel_size, geometry.strides, geometry.pads, strict=True)
    return tuple((n + sum(pads) - k) // s + 1 for n, k, s, pads in sizes)


def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.dot_general(x, w, (((3,), (0,)), ((), ())))


def _y_by_patches(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    patches = jnp.concatenate(_shifted(x, geometry, _size(geometry)), axis=-1)
    return _product(patches, w.reshape(-1, w.shape[-1]))


def _y_by_shifts(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    entries = w.reshape(-1, *w.shape[2:])
    views = _shifted(x, geometry, _size(geometry))
    return sum((_product(view, entries[i]) for i, view in enumerate(views)), jnp.zeros(()))


def _x_by(form: Form, y_bar: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The gradient of x: a convolution of the spread y_bar with the kernel turned round."""
    pads = []
    for n, m, k, s, (before, _) in zip(geometry.input_size, y_bar.shape[1:3], *geometry[1:4], strict=True):
        first = k - 1 - before
        pads.append((first, n + k - 1 - ((m - 1) * s + 1) - first, s - 1))
    spread = lax.pad(y_bar, jnp.zeros((), y_bar.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    size: Any = spread.shape[1:3]
    plain = geometry._replace(input_size=size, strides=(1, 1), pads=((0, 0), (0, 0)))
    return form(spread, jnp.swapaxes(w[::-1, ::-1], 2, 3), plain)


def _x_by_windows(y_bar: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    rows, columns, channels, features = w.shape
    windows = _product(y_bar, w.reshape(-1, features).T)
    windows = windows.reshape(*y_bar.shape[:3], rows * columns, channels)
    zero, x_bar = jnp.zeros((), y_bar.dtype), jnp.zeros(())
    for entry in range(rows * columns):
        pads = []
        at = divmod(entry, columns)
        for n, m, i, s, (before, _) in zip(
            geometry.input_size, y_bar.shape[1:3], at, geometry.strides, geometry.pads, strict=True
        ):
            pads.append((i - before, n - (i - before) - ((m - 1) * s + 1), s - 1))
        x_bar += lax.pad(windows[:, :, :, entry], zero, ((0, 0, 0), *pads, (0, 0, 0)))
    return x_bar


def _w_by_patches(x: jax.Array, y_bar: jax.Array, geometry: Geometry) -> jax.Array:
    patches = jnp.concatenate(_shifted(x, geometry, y_bar.shape[1:3]), axis=-1)
    w_bar = lax.dot_general(patches, y_bar, (((0, 1, 2), (0, 1, 2)), ((), ())))
    return w_bar.reshape(*geometry.kernel_size, x.shape[-1], y_bar.shape[-1])


def _w_by_shifts(x: jax.Array, y_bar: jax.Array, geometry: Geometry) -> jax.Array:
    views = _shifted(x, geometry, y_bar.shape[1:3])
    entries = [lax.dot_general(view, y_bar, (((0, 1, 2), (0, 1, 2)), ((), ()))) for view in views]
    return jnp.stack(entries).reshape(*geometry.kernel_size, x.shape[-1], y_bar.shape[-1])


def _y_by_lax(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, geometry.strides, geometry.pads, dimension_numbers=numbers)


def _x_by_lax(y_bar: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    shape = y_bar.shape[0], *geometry.input_size, w.shape[2]
    (x_bar,) = jax.linear_transpose(
        lambda x: _y_by_lax(x, w, geometry), jax.ShapeDtypeStruct(shape, y_bar.dtype)
    )(y_bar)
    return x_bar


def _w_by_lax(x: jax.Array, y_bar: jax.Array, geometry: Geometry) -> jax.Array:
    shape = *geometry.kernel_size, x.shape[-1], y_bar.shape[-1]
    (w_bar,) = jax.linear_transpose(
        lambda w: _y_by_lax(x, w, geometry), jax.ShapeDtypeStruct(shape, x.dtype)
    )(y_bar)
    return w_bar


FORMS: dict[str, dict[str, Any]] = {
    "y": {"ours": dense._forward, "lax": _y_by_lax, "patches": _y_by_patches, "shifts": _y_by_shifts},
    "gradient of x": {
        "ours": dense._x_gradient,
        "lax": _x_by_lax,
        "patches": partial(_x_by, _y_by_patches),
        "shifts": partial(_x_by, _y_by_shifts),
        "windows": _x_by_windows,
    },
    "gradient of w": {
        "ours": dense._w_gradient,
        "lax": _w_by_lax,
        "patches": _w_by_patches,
        "shifts": _w_by_shifts,
    },
}


def main() -> None:
    """Time all shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    rows = []
    for shape in SHAPES:
        for row in measure(*shape):
            rows.append(row)
            print(json.dumps(row), flush=True)
    if args.keep:
        kept = {"hardware": hardware.cores(), "jax": version("jax"), "rows": rows}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def measure(batch: int, size: int, channels: int, features: int, stride: int) -> list[dict[str, Any]]:
    """Milliseconds of each form, which must agree with ours."""
    geometry = Geometry((size, size), (3, 3), (stride, stride), ((1, 1), (1, 1)), (1, 1), None)
    x = jax.random.normal(jax.random.key(0), (batch, size, size, channels))
    w = jax.random.normal(jax.random.key(1), (3, 3, channels, features))
    y = dense._forward(x, w, geometry)
    rows = []
    for part, pair in (("y", (x, w)), ("gradient of x", (y, w)), ("gradient of w", (x, y))):
        forms = {name: partial(form, geometry=geometry) for name, form in FORMS[part].items()}
        exact = forms["ours"](*pair)

        def check(name: str, found: jax.Array, exact: jax.Array = exact, part: str = part) -> None:
            if jnp.abs(found - exact).max() > 1e-4 * jnp.abs(exact).max():
                raise AssertionError(f"{name} is another {part}")

        times = least_milliseconds(forms, pair, 6, check)
        rows.append(
            {"shape": f"{batch}x{size}x{size}x{channels} to {features}, stride {stride}", "of": part, **times}
        )
    return rows


def table() -> str:
    """What is kept."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    names = ("ours", "lax", "patches", "shifts", "windows")
    lines = [
        f"{kept['hardware']}, jax {kept['jax']}, 3x3, ms: `python -m benchmarks.convolutions`.",
        "",
        f"| shape | of | {' | '.join(names)} |",
        f"|{' --- |' * (len(names) + 2)}",
    ]
    for row in kept["rows"]:
        best = min(row[name] for name in names if name in row)
        cells = ["" if name not in row else f"{row[name]:.3g}" for name in names]
        cells = [f"**{c}**" if row.get(n) == best else c for n, c in zip(names, cells, strict=True)]
        lines.append(f"| {row['shape']} | {row['of']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
