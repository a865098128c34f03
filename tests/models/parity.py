"""Our networks under the weights of the golden files' formula, their outputs under the source's names.

`python -m tests.models.parity` prints the table of differences: from the golden files, or with `--live`,
where the libraries are installed (torch, torchvision, timm; or Keras), from them, with all gradients in full.
"""

import argparse
import fcntl
import importlib
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import flaxarch
from flaxarch.convert import strict as strict_loader
from flaxarch.convert.rules import TORCH, Rules, slots
from flaxarch.layers import Network
from tests.golden import fill
from tests.golden.families.every import CASES, GOLDEN
from tests.golden.file import read, sketched
from tests.golden.outputs import Evaluation, Training

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "parity.json"


class Filled:
    """Our network with the formula's weights, in float64: for use inside `jax.enable_x64(True)`."""

    def __init__(self, name: str, source_shapes: dict[str, tuple[int, ...]]):
        case = CASES[name]
        network = flaxarch.create(case.row or name, num_classes=case.num_classes, dtype=jnp.float64)
        self.model: Network = network.clone(**case.fields)
        self.rules = case.rules if isinstance(case.rules, Rules) else case.rules(self.model)
        init, self.apply = flaxarch.functional(self.model)
        image = jax.ShapeDtypeStruct((1, *case.evaluation[0][1:], case.channels), jnp.float64)
        params, batch_stats = jax.eval_shape(init, jax.random.key(0), image)
        shapes = {"params": params, "batch_stats": batch_stats}
        filled = strict_loader.fill(shapes, fill.tensors(source_shapes), self.rules, what=name)
        self.params, self.batch_stats = filled["params"], filled["batch_stats"]

    def evaluate(self, images: np.ndarray) -> Evaluation:
        """Logits, and the feature pyramid as the libraries' networks give it: stride -> (N, C, H, W)."""

        def evaluation(params, batch_stats, images):
            variables = {"params": params, "batch_stats": batch_stats}
            return self.model.apply(variables, images, train=False, mutable=["features"])

        logits, taken = jax.jit(evaluation)(self.params, self.batch_stats, images)
        maps = {key.removeprefix("stride"): x for key, x in taken.get("features", {}).items()}
        maps = {stride: np.asarray(x).transpose(0, 3, 1, 2) for stride, x in maps.items()}
        return Evaluation(np.asarray(logits), maps)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits in evaluation."""
        return self.evaluate(images).logits

    def float32_logits(self, images: np.ndarray) -> np.ndarray:
        """Logits in evaluation, all in float32, with no float64 in reach."""
        float32 = jax.tree.map(np.float32, (self.params, self.batch_stats, images))
        with jax.enable_x64(False):
            _, apply = flaxarch.functional(self.model.clone(dtype=jnp.float32))
            return np.asarray(jax.jit(partial(apply, train=False))(*float32)[0])

    def train(self, images: np.ndarray, labels: np.ndarray) -> Training:
        """One forward and backward pass in training mode; variances as the source keeps them."""

        def loss_fn(params):
            outputs, moved = self.apply(params, self.batch_stats, images, train=True)
            logits, aux_logits = outputs if self.model.aux_heads else (outputs, ())
            loss = _cross_entropy(logits, labels)
            for aux in aux_logits:
                loss += self.model.aux_weight * _cross_entropy(aux, labels)
            return loss, moved

        (loss, moved), gradients = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(self.params)
        if self.rules.layout is TORCH:
            moved = self._unbiased(moved, images)
        tree = {"params": gradients, "batch_stats": moved}
        named: dict[str, dict[str, np.ndarray]] = {"params": {}, "batch_stats": {}}
        for slot, leaf in zip(slots(tree, self.rules), jax.tree.leaves(tree), strict=True):
            named[slot.path[0]][slot.name] = slot.to_source(leaf)
        return Training(float(loss), named["params"], named["batch_stats"])

    def _unbiased(self, moved: Any, images: np.ndarray) -> Any:
        """Running variances as torch moves them: by the batch's variance times n / (n - 1)."""
        momentum = self.model.conventions.momentum  # pyright: ignore[reportAttributeAccessIssue]
        num_values = self._values_per_channel(images)

        def unbias(path: Any, after: jax.Array, before: jax.Array) -> jax.Array:
            *modules, leaf = (key.key for key in path)
            if leaf == "mean":
                return after
            n = num_values[tuple(modules)]
            return momentum * before + (after - momentum * before) * (n / (n - 1))

        return jax.tree.map_with_path(unbias, moved, self.batch_stats)

    def _values_per_channel(self, images: np.ndarray) -> dict[tuple[str, ...], int]:
        """Over how many values each batch norm takes its statistics: batch times height times width."""

        unrolled: Any = self.model
        if getattr(self.model, "scan", False):  # what loops compute is not to be captured
            unrolled = unrolled.clone(scan=False)

        def norm_outputs(params, batch_stats):
            _, taken = unrolled.apply(
                {"params": params, "batch_stats": batch_stats},
                jnp.asarray(images),
                train=True,
                mutable=["batch_stats", "intermediates"],
                capture_intermediates=lambda module, _: isinstance(module, nn.BatchNorm),
            )
            return taken.get("intermediates", {})  # none without batch norm

        outputs = jax.eval_shape(norm_outputs, self.params, self.batch_stats)
        # the path of an output ends in "__call__" and the number of the call
        return {
            tuple(key.key for key in path[:-2]): math.prod(x.shape[:-1])
            for path, x in jax.tree.leaves_with_path(outputs)
        }


def _cross_entropy(logits: jax.Array, labels: np.ndarray) -> jax.Array:
    """In maps of logits the label of an image is that of all its pixels."""
    labels = labels.reshape(-1, *[1] * (logits.ndim - 1))
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels, axis=-1).mean()


class Errors(NamedTuple):
    """How far a training step is from the source's, relative to the source's; the worst of all tensors."""

    loss: float
    gradients: float
    statistics: float


def logits_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest logit."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def tensor_errors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Norm of the difference over the norm, for each tensor."""
    assert found.keys() == expected.keys()
    differences = {key: float(np.linalg.norm(found[key] - expected[key])) for key in expected}
    return _over_norms(differences, {key: float(np.linalg.norm(expected[key])) for key in expected})


def sketch_errors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The same, estimated from sketches."""
    assert found.keys() == expected.keys()
    differences = {key: fill.sketch_error(found[key], expected[key]) for key in expected}
    return _over_norms(differences, {key: float(expected[key][0]) for key in expected})


def _over_norms(differences: dict[str, float], norms: dict[str, float]) -> dict[str, float]:
    # A gradient that is zero but for rounding, as of a bias ahead of batch norm, has no norm to speak of.
    least = 1e-6 * max(norms.values(), default=0)
    return {key: differences[key] / max(norms[key], least) for key in norms}


def training_errors(found: Training, expected: Training, errors: Any = tensor_errors) -> Errors:
    """Of full tensors, or with `errors=sketch_errors` of sketches."""
    return Errors(
        abs(found.loss - expected.loss) / abs(expected.loss),
        max(errors(found.gradients, expected.gradients).values()),
        max(errors(found.statistics, expected.statistics).values(), default=0.0),
    )


def golden_errors(name: str) -> tuple[float, Errors]:
    """Of logits, at all recorded sizes, and of a training step, against the golden file."""
    golden, channels = read(name), CASES[name].channels
    ours = Filled(name, golden.shapes)
    logits = max(
        logits_error(ours.logits(fill.images(*size, channels)), evaluation.logits)
        for size, evaluation in zip(golden.images, golden.evaluations, strict=True)
    )
    images, labels = fill.images(*golden.batch, channels), fill.labels(golden.batch[0], golden.num_classes)
    found = sketched(ours.train(images, labels))
    return logits, training_errors(found, golden.training, sketch_errors)


def live_errors(name: str) -> tuple[float, Errors]:
    """The same against the library itself, and with all tensors in full."""
    case = CASES[name]
    library = importlib.import_module(f"tests.golden.{case.library}")
    ours = Filled(name, library.shapes(case))
    logits = 0.0
    for size in case.evaluation:
        images = fill.images(*size, case.channels)
        logits = max(logits, logits_error(ours.logits(images), library.evaluate(case, images).logits))
    images, labels = (
        fill.images(*case.training, case.channels),
        fill.labels(case.training[0], case.num_classes),
    )
    return logits, training_errors(ours.train(images, labels), library.train(case, images, labels))


def keep(name: str, logits: float, training: Errors, seconds: float) -> None:
    """Write a live comparison where the table of all networks is made from."""
    case = CASES[name]
    library = importlib.import_module(f"tests.golden.{case.library}")
    found = {
        "row": case.row or name,
        "against": case.against,
        "versions": library.versions(),
        "evaluation": case.evaluation,
        "training": case.training,
        "errors": {"logits": logits, **training._asdict()},
        "seconds": round(seconds),
    }
    with KEPT.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # several may run at once
        file.seek(0)
        kept = json.loads(file.read() or "{}") | {name: found}
        file.truncate(0)
        file.write(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def main() -> None:
    """Print a row of Markdown per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks; without any, all")
    parser.add_argument("--live", action="store_true", help="against the libraries, not the golden files")
    parser.add_argument("--keep", action="store_true", help=f"with --live: write to {KEPT.name} too")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print("| network | logits | loss | largest gradient difference | BN statistics | seconds |")
    print("|---|---|---|---|---|---|")
    for name in args.names or (CASES if args.live else GOLDEN):
        start = time.monotonic()
        logits, training = live_errors(name) if args.live else golden_errors(name)
        seconds = time.monotonic() - start
        numbers = " | ".join(f"{x:.1e}" for x in (logits, *training))
        print(f"| {name} | {numbers} | {seconds:.0f} |", flush=True)
        if args.live and args.keep:
            keep(name, logits, training, seconds)


if __name__ == "__main__":
    main()
