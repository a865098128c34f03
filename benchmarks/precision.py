"""How far float32 and bfloat16 logits are from float64's on this device, for whole networks.

    python -m benchmarks.precision [--networks ...] [--processes N] [--keep]

A network has the random weights of `benchmarks.speed` and batch norm over the batch, as in training, so
that activations keep their size however deep it is. The error is that of all logits together, ‖x − y‖ / ‖y‖
with y from float64 on the same device, in the precision that JAX takes by itself ("float32": TensorFloat-32
on recent GPUs), in the highest, and in bfloat16; "same class" is the share of images whose largest logit is
the same. `--keep` writes `benchmarks/results/precision.json`.
"""

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxarch
from benchmarks.speed.cases import NETWORKS, SCANNED
from benchmarks.speed.contenders.on_jax import filled

KEPT = Path(__file__).parent / "results" / "precision.json"
IMAGES = 16
FORMS = {
    "float32": (jnp.float32, None),
    "float32, highest": (jnp.float32, "highest"),
    "bfloat16": (jnp.bfloat16, None),
}


def main() -> None:
    """Measure the networks, several at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    found, device = {}, ""
    with ProcessPoolExecutor(args.processes, mp_context=spawn) as pool:
        futures = {pool.submit(measure, name): name for name in args.networks}
        for future in as_completed(futures):
            name, (device, errors) = futures[future], future.result()
            found[name] = errors
            print(name, json.dumps(errors), flush=True)
            if args.keep:
                _keep(device, found)


def measure(name: str) -> tuple[str, dict[str, dict[str, float]]]:
    """Device, and by form the error and the share of images of the same class."""
    row = flaxarch.published(name)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((IMAGES, *row.input_shape), np.float32)
    model = flaxarch.create(name)
    if name in SCANNED:
        model = model.clone(scan=True)  # pyright: ignore[reportCallIssue]
    if hasattr(model, "dropout_rate"):
        model = model.clone(dropout_rate=0.0)  # pyright: ignore[reportCallIssue]
    shapes = jax.eval_shape(partial(model.init, jax.random.key(0), train=False), images[:1])
    variables = filled(shapes)

    def logits(dtype: Any, variables: Any, images: Any) -> np.ndarray:
        net = model.clone(dtype=dtype)

        def apply(variables: Any, x: Any) -> Any:
            outputs, _ = net.apply(variables, x, train=True, mutable=["batch_stats"])
            return outputs[0] if isinstance(outputs, tuple) else outputs

        return np.asarray(jax.jit(apply)(variables, images), np.float64)

    with jax.enable_x64(True):
        as_float64 = partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float64))
        exact = logits(jnp.float64, as_float64(variables), as_float64(images))
    found = {}
    for form, (dtype, precision) in FORMS.items():
        with jax.default_matmul_precision(precision):
            ours = logits(dtype, variables, images)
        error = float(np.linalg.norm(ours - exact) / np.linalg.norm(exact))
        same = float((ours.argmax(-1) == exact.argmax(-1)).mean())
        found[form] = {"error": float(f"{error:.3g}"), "same class": same}
    return jax.devices()[0].device_kind, found


def table() -> str:
    """All kept devices as a table."""
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    lines = [f"| device | network | {' | '.join(FORMS)} |", f"|{' --- |' * (len(FORMS) + 2)}"]
    for device, found in kept.items():
        for name, errors in found["networks"].items():
            cells = [
                f"{errors[form]['error']:.1e}, {100 * errors[form]['same class']:.0f} % same class"
                for form in FORMS
            ]
            lines.append(f"| {device} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _keep(device: str, found: dict[str, Any]) -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    networks = kept.get(device, {}).get("networks", {}) | found
    kept[device] = {"jax": version("jax"), "images": IMAGES, "networks": networks}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
