"""Our networks under the weights of the golden files' formula, their outputs under the source's names.

`python -m tests.models.parity` prints the table of differences: from the golden files, or with `--live`,
where torch, torchvision and timm are installed, from those libraries and with all gradients in full.
"""

import argparse
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import flaxarch
from flaxarch.convert import keras, torchvision
from flaxarch.convert import strict as strict_loader
from flaxarch.convert.rules import TORCH, Rules, slots
from flaxarch.layers import Network
from flaxarch.models.resnet import avg_pool_projection, deep_stem
from tests.golden import fill
from tests.golden.file import read, sketched
from tests.golden.outputs import Training
from tests.golden.record import RECORDED

# timm's ResNet-D: its stem is a Sequential, and in its shortcut's a pool comes first.
TIMM_RESNET_D = Rules(
    "timm",
    TORCH,
    (
        (r"^conv1_(\d)", r"conv1.\1"),
        (r"^layer(\d+)_(\d+)", r"layer\1.\2"),
        (r"downsample_conv$", "downsample.1"),
        (r"downsample_bn$", "downsample.2"),
        (r"/", "."),
    ),
    torchvision.RESNET.dropped,
)
RESNET_D: dict[str, Any] = {"stem": deep_stem, "shortcut": avg_pool_projection}


class Ours(NamedTuple):
    """Our network for a name in `tests/golden`."""

    row: str
    fields: dict[str, Any] = {}  # in which it differs from the row  # noqa: RUF012
    rules: Rules = torchvision.RESNET


OURS = {
    "resnet50, output stride 8": Ours("resnet50", {"output_stride": 8}),
    "resnet50, output stride 16": Ours("resnet50", {"output_stride": 16}),
    "resnet18d": Ours("resnet18", RESNET_D, TIMM_RESNET_D),
    "resnet50d": Ours("resnet50", RESNET_D, TIMM_RESNET_D),
    "resnet50_keras": Ours("resnet50_keras", rules=keras.RESNET),
    # what is random in training cannot be compared
    "resnet110_sd": Ours("resnet110_sd", {"survival_prob": 1.0}, torchvision.CIFAR_RESNET),
    **{
        name: Ours(name, rules=torchvision.CIFAR_RESNET)
        for name in ("resnet20", "resnet20_b", "resnet110", "plain20")
    },
}


class Filled:
    """Our network with the formula's weights, in float64: for use inside `jax.enable_x64(True)`."""

    def __init__(self, name: str, source_shapes: dict[str, tuple[int, ...]]):
        ours = OURS.get(name, Ours(name))
        self.rules = ours.rules
        self.model: Network = flaxarch.create(ours.row, dtype=jnp.float64).clone(**ours.fields)
        init, self.apply = flaxarch.functional(self.model)
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float64)
        params, batch_stats = jax.eval_shape(init, jax.random.key(0), image)
        shapes = {"params": params, "batch_stats": batch_stats}
        filled = strict_loader.fill(shapes, fill.tensors(source_shapes), self.rules, what=name)
        self.params, self.batch_stats = filled["params"], filled["batch_stats"]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits in evaluation."""
        apply = jax.jit(partial(self.apply, train=False))
        return np.asarray(apply(self.params, self.batch_stats, images)[0])

    def float32_logits(self, images: np.ndarray) -> np.ndarray:
        """Logits in evaluation, all in float32, with no float64 in reach."""
        float32 = jax.tree.map(np.float32, (self.params, self.batch_stats, images))
        with jax.enable_x64(False):
            _, apply = flaxarch.functional(self.model.clone(dtype=jnp.float32))
            return np.asarray(jax.jit(partial(apply, train=False))(*float32)[0])

    def stages(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Activations after each stage, (N, C, H, W); of networks without dilation."""
        maps = jax.jit(flaxarch.features(self.model))(self.params, self.batch_stats, images)
        first = 4 if 32 in maps else 1  # the map at stride 2 is the ImageNet stem's
        after = [np.asarray(x).transpose(0, 3, 1, 2) for stride, x in maps.items() if stride >= first]
        return {f"layer{i}": x for i, x in enumerate(after, start=1)}

    def train(self, images: np.ndarray, labels: np.ndarray) -> Training:
        """One forward and backward pass in training mode; variances as the source keeps them."""

        def loss_fn(params):
            logits, moved = self.apply(params, self.batch_stats, images, train=True)
            log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
            return -log_probs.mean(), moved

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

        def norm_outputs(params, batch_stats):
            _, taken = self.model.apply(
                {"params": params, "batch_stats": batch_stats},
                jnp.asarray(images),
                train=True,
                mutable=["batch_stats", "intermediates"],
                capture_intermediates=lambda module, _: isinstance(module, nn.BatchNorm),
            )
            return taken["intermediates"]

        outputs = jax.eval_shape(norm_outputs, self.params, self.batch_stats)
        # the path of an output ends in "__call__" and the number of the call
        return {
            tuple(key.key for key in path[:-2]): math.prod(x.shape[:-1])
            for path, x in jax.tree.leaves_with_path(outputs)
        }


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
    least = 1e-6 * max(norms.values())
    return {key: differences[key] / max(norms[key], least) for key in norms}


def training_errors(found: Training, expected: Training, errors: Any = tensor_errors) -> Errors:
    """Of full tensors, or with `errors=sketch_errors` of sketches."""
    return Errors(
        abs(found.loss - expected.loss) / abs(expected.loss),
        max(errors(found.gradients, expected.gradients).values()),
        max(errors(found.statistics, expected.statistics).values()),
    )


def golden_errors(name: str) -> tuple[float, Errors]:
    """Of logits, at all recorded sizes, and of a training step, against the golden file."""
    golden = read(name)
    ours = Filled(name, golden.shapes)
    logits = max(
        logits_error(ours.logits(fill.images(*size)), evaluation.logits)
        for size, evaluation in zip(golden.images, golden.evaluations, strict=True)
    )
    training = ours.train(fill.images(*golden.batch), fill.labels(golden.batch[0], golden.num_classes))
    return logits, training_errors(sketched(training), golden.training, sketch_errors)


def live_errors(name: str) -> tuple[float, Errors]:
    """The same against the library itself, at other sizes, and with all tensors in full."""
    from tests.golden import torch_networks  # needs torch

    ours = Filled(name, torch_networks.shapes(name))
    num_classes = ours.model.num_classes
    images = fill.images(2, 35, 27) if num_classes == 10 else fill.images(1, 127, 101)
    logits = logits_error(ours.logits(images), torch_networks.evaluate(name, images).logits)
    images = fill.images(3, 33, 27) if num_classes == 10 else fill.images(3, 65, 71)
    labels = fill.labels(3, num_classes)
    return logits, training_errors(ours.train(images, labels), torch_networks.train(name, images, labels))


def main() -> None:
    """Print a row of Markdown per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks; without any, all")
    parser.add_argument("--live", action="store_true", help="against the libraries, not the golden files")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print("| network | logits | loss | largest gradient difference | BN statistics |\n|---|---|---|---|---|")
    for name in args.names or [name for library in RECORDED.values() for name in library]:
        logits, training = live_errors(name) if args.live else golden_errors(name)
        print(f"| {name} | {logits:.1e} | " + " | ".join(f"{x:.1e}" for x in training) + " |", flush=True)


if __name__ == "__main__":
    main()
