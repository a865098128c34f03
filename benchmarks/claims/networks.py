"""Networks trained on CIFAR-10, for claims about trained ones: each is trained once, and kept.

What was trained lies in the user's cache folder, or where `Places.cache` says: claims that look at the same
network share it, and a run that was stopped goes on with the network that is missing.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import serialization

from benchmarks.claims.claim import Check, Claim, Measured, Places
from flaxarch.layers import Network
from flaxarch.models.cifar_resnet import CifarResNet, stage_sizes
from flaxarch.models.preact_resnet import CifarPreAct, PreActStem
from flaxarch.ops import use_native_forms
from train.augment import make_augmenter
from train.config import Config
from train.data import ArraySource, Source, open_dataset, train_batches
from train.losses import make_loss
from train.optim import make_optimizer
from train.schedules import make_schedule
from train.step import init_state, make_train_step, normalise


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large a protocol is run: images, networks and training."""

    size: int  # pixels; CIFAR-10's 32, or 16, the means of 2x2
    num_train: int  # images, as many of each class
    num_test: int
    widths: tuple[int, int, int]  # features of a network's three stages
    training: Config
    in_words: str
    tier: Literal["C", "G"]

    def resnet(self, depth: int, **fields: Any) -> Network:
        """He et al. 2016's CIFAR network of `depth` = 6n + 2 layers; `shortcut=None`: the plain one."""
        return CifarResNet(stage_sizes(depth), widths=self.widths, **fields)

    def preact(self, depth: int, **fields: Any) -> Network:
        """He et al. 2016b's of that depth, with any of its activations and shortcuts."""
        stem = PreActStem(1, partial(_stem, features=self.widths[0]))
        return CifarPreAct(stage_sizes(depth), widths=self.widths, stem=stem, **fields)


def _stem(network: Any, images: jax.Array, conv: Any, activate: Any, *, features: int) -> jax.Array:
    del network
    return activate(conv(features, (3, 3), padding=1, name="conv1")(images))


SMALL = Scale(
    16,
    20_000,
    5_000,
    (8, 16, 32),
    Config(steps=1000, batch_size=64, augment="flip"),
    "Networks 8, 16 and 32 features wide, on CIFAR-10 at 16x16 pixels (means of 2x2): 1,000 steps of 64 of "
    "20,000 images, mirrored half of the time; one cycle of the rate up to 0.1, Nesterov's momentum 0.9, "
    "decay 5e-4. Tested on 5,000 images.",
    "C",
)
FULL = Scale(
    32,
    50_000,
    10_000,
    (16, 32, 64),
    Config(
        steps=64_000,
        batch_size=128,
        augment="crop_flip",
        schedule="step",
        nesterov=False,
        weight_decay=1e-4,
        decay_all=True,
    ),
    "CIFAR-10 in full, as He et al. 2016, Sec. 4.2: 64,000 steps of 128, padded by 4 and cropped, mirrored; "
    "rate 0.1, a tenth of it from half and from three quarters on; momentum 0.9, decay 1e-4.",
    "G",
)


def claim(
    scale: Scale,
    checks: tuple[Check, ...],
    *,
    statement: str,
    source: str,
    protocol: str,
    measure: Callable[..., Measured],
    seeds: int,
    calibrated: str,
    x: str,
    y: str,
    first_x: int = 1,
    draw: Callable[[Any, Any], None] | None = None,
    **settings: Any,
) -> Claim:
    """A claim on networks of this scale.

    `settings` are arguments of measure(seed, places, scale=..., **settings), and stand in braces in
    `protocol`, behind which the scale tells its training. All else is `Claim`'s.
    """
    return Claim(
        statement,
        source,
        f"{protocol.format(**settings)} {scale.in_words}",
        partial(measure, scale=scale, **settings),
        checks,
        seeds=seeds,
        tier=scale.tier,
        needs=("cifar10",),
        calibrated=calibrated,
        x=x,
        y=y,
        first_x=first_x,
        draw=draw,
    )


class Images(NamedTuple):
    """Sources, and how their pixels are normalised."""

    train: ArraySource
    test: ArraySource
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixels(self, images: np.ndarray) -> jax.Array:
        """What networks take: (N, 16, 16, 3)."""
        return normalise(jnp.asarray(images), self.mean, self.std)

    def test_set(self, number: int | None = None) -> tuple[jax.Array, jax.Array]:
        """The first so many test images, as networks take them, and their labels."""
        return self.pixels(self.test.images[:number]), jnp.asarray(self.test.labels[:number])

    def train_set(self, number: int | None = None) -> tuple[jax.Array, jax.Array]:
        """The same of training images."""
        return self.pixels(self.train.images[:number]), jnp.asarray(self.train.labels[:number])


class Trained(NamedTuple):
    """A network after its training."""

    variables: Any
    losses: np.ndarray  # of each step's batch, with what the loss adds to cross-entropy

    @property
    def final_loss(self) -> float:
        """Mean over the last tenth of the steps."""
        return float(self.losses[-len(self.losses) // 10 :].mean())


def trained(model: nn.Module, seed: int, places: Places, scale: Scale = SMALL, **flags: Any) -> Trained:
    """The network after the scale's training, with `flags` of the trainer for its own; kept in the cache.

    The seed draws parameters, order and mirrors of the images, dropout and blocks.
    """
    config = dataclasses.replace(scale.training, seed=seed, **flags)
    path = _folder(places) / f"{_digest(model, config, scale)}.msgpack"
    if not path.exists():
        found = train(model, config, images(places, scale))
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(f".{os.getpid()}")
        half.write_bytes(serialization.msgpack_serialize(jax.device_get(found._asdict())))
        half.replace(path)
    try:
        kept = serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # whatever damage makes of msgpack
        raise SystemExit(f"{path} is damaged: delete it, and its network is trained anew") from error
    return Trained(jax.tree.map(jnp.asarray, kept["variables"]), kept["losses"])


def _digest(model: nn.Module, config: Config, scale: Scale) -> str:
    """Of all that decides how a network comes out: its fields, what it starts from, and its training."""
    image = jnp.zeros((1, scale.size, scale.size, 3))
    with use_native_forms(True):  # so that another form for the CPU changes nothing
        start = jax.make_jaxpr(partial(model.init, train=False))(jax.random.key(0), image)
    fields = [f"{name}={value!r}" for name, value in dataclasses.asdict(config).items()]
    text = "\n".join([repr(model), str(start), *fields, f"{scale.num_train} {scale.size} {jax.__version__}"])
    return hashlib.sha256(re.sub(" at 0x[0-9a-f]+", "", text).encode()).hexdigest()[:24]


def train(model: nn.Module, config: Config, data: Images, start: Any = None) -> Trained:
    """The network after training, from the variables `start`, or from those that the seed draws; not kept."""
    steps = config.steps or 0
    tx = make_optimizer(config, make_schedule(config, len(data.train) // config.batch_size, steps))
    step = make_train_step(model, tx, seed=config.seed, mean=data.mean, std=data.std, loss=make_loss(config))
    step = jax.jit(step, donate_argnums=0)
    state = jax.jit(partial(init_state, model, tx, config.seed, data.train.image_shape))(start)
    augment = make_augmenter(config, data.train.image_shape, data.mean)
    batches = train_batches(data.train, batch_size=config.batch_size, seed=config.seed, augment=augment)
    losses = []
    for batch in islice(batches, steps):
        state, metrics = step(state, batch)
        losses.append(metrics["loss"] / metrics["count"])
    batches.close()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return Trained(
        variables if state.batch_stats else {"params": state.params}, np.array(jax.device_get(losses))
    )


def logits(model: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    """Of all images, in evaluation, 500 at a time."""
    parts = [_logits(model, variables, images[i : i + 500]) for i in range(0, len(images), 500)]
    return jnp.concatenate(parts)


@partial(jax.jit, static_argnames="model")
def _logits(model: Any, variables: Any, images: jax.Array) -> jax.Array:
    return model.apply(variables, images, train=False)


def accuracy(logits: jax.Array, labels: jax.Array) -> float:
    """In percent."""
    return 100 * float((logits.argmax(-1) == labels).mean())


@lru_cache(maxsize=2)
def images(places: Places, scale: Scale = SMALL) -> Images:
    """The first images of each class, classes in turn."""
    path = _folder(places) / f"cifar10-{scale.size}-{scale.num_train}-{scale.num_test}.npz"
    if not path.exists():
        data = open_dataset("cifar10", places.cifar10)
        train, test = _first(data.train, scale.num_train, scale), _first(data.test, scale.num_test, scale)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(half, train=train[0], train_labels=train[1], test=test[0], test_labels=test[1])
        half.replace(path)
    with np.load(path) as kept:
        train = ArraySource(kept["train"], kept["train_labels"], tuple(map(str, range(10))))
        test = ArraySource(kept["test"], kept["test_labels"], train.class_names)
    scaled = train.images / 255
    mean, std = scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2))
    return Images(train, test, tuple(mean.tolist()), tuple(std.tolist()))


def _first(source: Source, number: int, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    classes = [np.flatnonzero(source.labels == label)[: number // 10] for label in range(10)]
    pixels, labels = source.load(np.stack(classes, axis=1).reshape(-1))
    side = pixels.shape[1] // scale.size
    means = pixels.reshape(number, scale.size, side, scale.size, side, 3).mean(axis=(2, 4))
    return np.rint(means).astype(np.uint8), labels


def _folder(places: Places) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return places.cache or home / "flaxarch" / "claims"
