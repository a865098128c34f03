"""The network that a run learns from, beside the labels: a checkpoint, evaluated inside the step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import flaxarch
from flaxarch.convert import CheckpointError, recognise
from train.config import Config, ConfigError
from train.data import Dataset
from train.losses import Distillation
from train.start import pixels_of
from train.step import normalise


class Teacher(NamedTuple):
    """What is learned, and from which variables, which are an argument of every step."""

    distillation: Distillation
    variables: Any


def make_teacher(config: Config, data: Dataset) -> Teacher | None:
    """The teacher that the configuration names; None: it names none.

    It sees the images that the network sees, normalised as its own were.

    Raises:
        ConfigError: it cannot be read, has other classes, or does not take these images.
    """
    if config.teacher is None:
        return None
    num_classes, image_shape = data.train.num_classes, data.train.image_shape
    channels = image_shape[2]
    try:
        found = recognise(config.teacher, config.teacher_model)
        model, variables = flaxarch.load(config.teacher, found.name, in_channels=channels)
    except (CheckpointError, OSError) as error:
        raise ConfigError(f"teacher: {error}") from error
    if model.num_classes != num_classes:
        raise ConfigError(
            f"teacher {config.teacher} has {model.num_classes} classes, and the data has {num_classes}; "
            "it has to be a network trained on the same classes"
        )
    mean, std, order = pixels_of(found, channels)
    model = model.clone(dtype=jnp.dtype(config.dtype))
    apply = flaxarch.functional(model).apply

    def logits_of(variables: Any, pixels: jax.Array) -> jax.Array:
        images = normalise(pixels, mean, std, order)
        logits, _ = apply(variables["params"], variables["batch_stats"], images, train=False)
        return lax.stop_gradient(logits)

    try:
        jax.eval_shape(logits_of, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    except ValueError as error:
        raise ConfigError(f"teacher {config.teacher} does not take these images: {error}") from error
    return Teacher(Distillation(logits_of, config.distil_weight, config.distil_temperature), variables)
