"""One network of each family as ONNX and as StableHLO: agreement, size, and time beside JAX and torch.

    python -m benchmarks.export differences [NAME ...]
    python -m benchmarks.export times [NAME ...] [--torch PYTHON]
    python -m benchmarks.export page

"differences" writes each network at its row's input size, with random weights and batch statistics, reads it
back and compares it on two random images with the network itself; "times" runs one image through the files,
through the jitted network, and with `--torch`, an interpreter that has torchvision, through torchvision's
network: contenders take turns, and the median of the rounds counts. Both write
`benchmarks/results/export.csv`, of which "page" makes `docs/export.md`.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import flaxarch
from flaxarch import export
from flaxarch.layers import Network

KEPT = Path(__file__).parent / "results" / "export.csv"
PAGE = Path(__file__).parents[1] / "docs" / "export.md"
NAMES = (  # a network of each family, small ones first; two of LRN and of a U-Net over another network
    *("lenet5", "airbench94", "nin_cifar10", "resnet20", "wrn_16_4", "ode_resnet", "squeezenet1_0"),
    *("mobilenet_v3_small", "mobilenet_100", "shufflenet_v2_x1_0", "mobilenet_v2", "alexnet", "alexnet_2012"),
    *("googlenet", "bn_inception", "unet_resnet18", "dpn68", "resnet50", "resnet50v2_keras", "seresnet50"),
    *("densenet121", "inception_v3", "xception", "inception_v4", "inception_resnet_v2", "vgg16", "unet"),
)
CONTENDERS = ("onnxruntime", "jax", "stablehlo", "torch")
COLUMNS = (
    *("network", "input_shape", "num_params", "onnx_nodes", "onnx_transposes", "onnx_bytes"),
    *("onnx_difference", "stablehlo_sizes", "stablehlo_bytes", "stablehlo_difference", "write_seconds"),
    *(f"{name}_{kind}ms" for name in CONTENDERS for kind in ("", "least_")),
    "calm",
)
_ROUNDS = 15
_PATIENCE = 60  # seconds that a network waits for the machine to be idle
_TORCH = """
import sys, time, torch, torchvision
torch.set_num_threads(2)
model = torchvision.models.get_model(sys.argv[1], weights=None, **eval(sys.argv[3])).eval()
x = torch.randn(1, 3, int(sys.argv[2]), int(sys.argv[2]))
for line in sys.stdin:
    with torch.inference_mode():
        start = time.perf_counter()
        model(x)
        print(time.perf_counter() - start, flush=True)
"""
_OF_TORCHVISION = {  # our names of networks that torchvision has; what its constructor is told
    **dict.fromkeys(("alexnet", "squeezenet1_0", "mobilenet_v3_small", "mobilenet_v2", "resnet50"), "{}"),
    **dict.fromkeys(("shufflenet_v2_x1_0", "densenet121", "vgg16"), "{}"),
    "googlenet": "dict(init_weights=False)",
    "inception_v3": "dict(init_weights=False)",
}


def random_variables(model: Network, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Kernels of variance 1 / fan_in, norms and statistics that are not one and zero.

    As He et al. draw them, twice that, signals double from block to block: the gates of a SENet then see
    hundreds, and two programs in float32 differ by a tenth (seresnet50: 1.2e-1 of the largest logit).
    """
    images = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    params, batch_stats = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    rng = np.random.default_rng(0)

    def leaf(path: Any, x: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":
            std = np.float32(np.sqrt(1 / max(1, np.prod(x.shape[:-1]))))
            return std * rng.standard_normal(x.shape, np.float32)
        if name in ("var", "scale"):
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        return np.float32(0.1) * rng.standard_normal(x.shape, np.float32)

    return {
        "params": jax.tree.map_with_path(leaf, params),
        "batch_stats": jax.tree.map_with_path(leaf, batch_stats),
    }


def differences(name: str, folder: Path) -> dict[str, Any]:
    """A row of the table without its times."""
    model, shape = flaxarch.create(name), flaxarch.published(name).input_shape
    variables = random_variables(model, shape)
    images = np.random.default_rng(1).standard_normal((2, *shape), np.float32)
    expected = np.asarray(_jitted(model)(variables, images))
    largest = abs(expected).max()

    start = time.perf_counter()
    onnx = export.write_onnx(folder / "a.onnx", model, variables)
    seconds = time.perf_counter() - start
    found = export.run_onnx(folder / "a.onnx", images)
    stablehlo = export.write_stablehlo(folder / "a.stablehlo", model, variables)
    network = export.read_stablehlo(folder / "a.stablehlo")
    again = np.asarray(network.evaluate(network.variables, images))
    return {
        "network": name,
        "input_shape": "x".join(map(str, shape)),
        "num_params": sum(x.size for x in jax.tree.leaves(variables["params"])),
        "onnx_nodes": sum(onnx.operations.values()),
        "onnx_transposes": onnx.operations.get("Transpose", 0),
        "onnx_bytes": onnx.num_bytes,
        "onnx_difference": f"{abs(found - expected).max() / largest:.1e}",
        "stablehlo_sizes": stablehlo.image_size,
        "stablehlo_bytes": stablehlo.num_bytes,
        "stablehlo_difference": f"{abs(again - expected).max() / largest:.1e}",
        "write_seconds": f"{seconds:.1f}",
    }


def _jitted(model: Network) -> Callable[..., jax.Array]:
    apply = flaxarch.functional(model).apply

    def logits(variables: Any, images: Any) -> jax.Array:
        return apply(variables["params"], variables["batch_stats"], images, train=False)[0]

    return jax.jit(logits)


def times(name: str, folder: Path, torch: str | None) -> dict[str, Any]:
    """The times of a row: medians, in milliseconds for one image on two cores."""
    import onnxruntime

    model, shape = flaxarch.create(name), flaxarch.published(name).input_shape
    variables = jax.device_put(random_variables(model, shape))
    image = np.random.default_rng(1).standard_normal((1, *shape), np.float32)
    export.write_onnx(folder / "a.onnx", model, variables)
    export.write_stablehlo(folder / "a.stablehlo", model, variables)
    network = export.read_stablehlo(folder / "a.stablehlo")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(folder / "a.onnx", options, ["CPUExecutionProvider"])
    given = {"images": np.ascontiguousarray(image.transpose(0, 3, 1, 2))}
    ours, read, there = _jitted(model), jax.jit(network.evaluate), jax.device_put(network.variables)
    contenders = {
        "onnxruntime": partial(_timed, lambda: session.run(None, given)),
        "jax": partial(_timed, lambda: ours(variables, image).block_until_ready()),
        "stablehlo": partial(_timed, lambda: read(there, image).block_until_ready()),
    }
    other = None
    if torch is not None and name in _OF_TORCHVISION:
        command = [torch, "-c", _TORCH, name, str(shape[0]), _OF_TORCHVISION[name]]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        contenders["torch"] = partial(_answered, other)
    try:
        for run in contenders.values():  # compiles
            run()
        seconds, calm = {key: list[float]() for key in contenders}, Calm(_PATIENCE)
        for _ in range(_ROUNDS):
            for key, run in contenders.items():
                calm.wait()
                seconds[key].append(run())
    finally:
        if other is not None:
            other.kill()
            other.wait()
    medians = {f"{key}_ms": statistics.median(values) for key, values in seconds.items()}
    least = {f"{key}_least_ms": min(values) for key, values in seconds.items()}
    numbers = {key: f"{1000 * x:.2f}" for key, x in (medians | least).items()}
    return numbers | {"calm": f"{calm.num_idle / calm.num_runs:.2f}"}


class Calm:
    """Waits until both cores are idle, as long as there is patience; threads that spin settle meanwhile."""

    def __init__(self, patience: float) -> None:
        self.patience, self.num_runs, self.num_idle = patience, 0, 0

    def wait(self) -> None:
        """Returns when the machine was idle for a fifth of a second, or patience is at its end."""
        self.num_runs += 1
        while True:
            idle = self._idle(0.2)
            if idle > 0.85:
                self.num_idle += 1
                return
            if self.patience <= 0:
                return
            self.patience -= 0.2

    def _idle(self, seconds: float) -> float:
        first = self._ticks()
        time.sleep(seconds)
        second = self._ticks()
        total = sum(second) - sum(first)
        return (second[3] + second[4] - first[3] - first[4]) / total if total else 1.0

    @staticmethod
    def _ticks() -> list[int]:
        """user, nice, system, idle, waiting, ..."""
        return [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _answered(process: "subprocess.Popen[str]") -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def read_rows() -> dict[str, dict[str, str]]:
    """The rows that are kept, by network."""
    if not KEPT.exists():
        return {}
    with KEPT.open(newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def _keep(row: dict[str, Any]) -> None:
    rows = read_rows()
    rows[row["network"]] = {**rows.get(row["network"], {}), **row}
    part = KEPT.with_name(KEPT.name + ".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows[name] for name in NAMES if name in rows)
    os.replace(part, KEPT)


def main() -> None:
    """Makes the rows that are asked for, or the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("differences", "times", "page"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--torch", help="interpreter with torchvision")
    given = parser.parse_args()
    if given.what == "page":
        PAGE.write_text(page(read_rows()), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or NAMES:
            made = (
                differences(name, Path(folder))
                if given.what == "differences"
                else times(name, Path(folder), given.torch)
            )
            _keep({"network": name, **made})
            print(json.dumps({"network": name, **made}), flush=True)
            jax.clear_caches()


def page(rows: dict[str, dict[str, str]]) -> str:
    """docs/export.md: how to export, and the tables."""
    sizes = [
        [
            row["network"],
            row["input_shape"],
            *(row[key] for key in ("onnx_nodes", "onnx_transposes")),
            f"{int(row['onnx_bytes']) / 1e6:.1f}",
            row["onnx_difference"],
            row["stablehlo_sizes"],
            f"{int(row['stablehlo_bytes']) / 1e6:.1f}",
            row["stablehlo_difference"],
        ]
        for row in rows.values()
    ]
    timed = [row for row in rows.values() if row.get("onnxruntime_ms")]
    return _PAGE.format(
        opset=export.OPSET,
        onnx=version("onnx"),
        onnxruntime=version("onnxruntime"),
        jax=version("jax"),
        rounds=_ROUNDS,
        sizes=_table(
            [
                *("network", "image", "nodes", "transposes", "ONNX, MB", "difference"),
                *("StableHLO takes", "MB", "difference"),
            ],
            sizes,
        ),
        times=_table(
            ["network", "onnxruntime", "JAX", "StableHLO, by JAX", "torch", "calm"],
            [[row["network"], *(_time(row, key) for key in CONTENDERS), row["calm"]] for row in timed],
        ),
    )


def _time(row: dict[str, str], contender: str) -> str:
    median, least = row.get(f"{contender}_ms"), row.get(f"{contender}_least_ms")
    return f"{median} ({least})" if median else ""


def _table(titles: list[str], rows: Iterable[list[str]]) -> str:
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_PAGE = """# Networks in other programs

    flaxarch export resnet50.pth resnet50.onnx
    flaxarch export resnet50.pth resnet50.stablehlo

An `.onnx` is the network as it evaluates, in opset {opset}: images NCHW or NHWC, of one size and any number,
to logits. It is written from JAX's trace of the network, so that all that a family computes is in it, with
batch norms in the convolutions that they follow, ReLU, hard swish and local response normalisation as single
nodes, and axes moved only where the network itself moves them. A `.stablehlo` is a `.safetensors` file with
the program, for CPU, CUDA and TPU, beside the variables: JAX runs it without the network's code, and with
other weights of the same network too.

Both tell the network's name, its classes and how pictures become images. An operation that has no form in
ONNX here, such as a `while` whose end depends on the images, ends in a sentence that names it.

## Agreement

A network of each family with random weights and batch statistics, against the network itself on two random
images: the largest difference, relative to the largest logit. "StableHLO takes" tells the heights and widths
that the program takes; one size, or multiples of 32, where the network's Python asks for the size: adaptive
pools, pools whose last window is partly filled, U-Nets that crop. "transposes" are nodes that move axes.

{sizes}

By `python -m benchmarks.export differences`: JAX {jax}, onnx {onnx}, onnxruntime {onnxruntime}.

## Time

One image on two cores of a CPU, milliseconds: the median of {rounds} rounds in which contenders took turns,
and in brackets the least. The machine is shared: a run waits for it to be idle, for a minute per network at
most. "calm" is the share of runs that found it so; where it is low, the least says more. torch is
torchvision's network, eager, in NCHW layout.

{times}

By `python -m benchmarks.export times --torch PYTHON`.
"""

if __name__ == "__main__":
    main()
