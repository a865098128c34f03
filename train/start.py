"""Where a run starts: a new network, or released weights with what is frozen of them."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import flaxarch
from flaxarch.convert import CheckpointError, Recognised, recognise
from flaxarch.layers import Network
from train.config import Config, ConfigError
from train.data import Dataset

TRAINED, FROZEN = "trained", "frozen"


class Start(NamedTuple):
    """The network of a run, and what it starts from."""

    model: Network
    variables: dict[str, Any] | None  # of the checkpoint; None: drawn from the seed
    mean: tuple[float, ...]  # with which images come to the network: the data's, or those of the weights
    std: tuple[float, ...]
    channels: str  # RGB or BGR
    labels: Any  # TRAINED or FROZEN for each parameter; None: all are trained
    scales: Any  # of each parameter's learning rate; None: 1
    remarks: tuple[str, ...] = ()


def make_start(config: Config, data: Dataset) -> Start:
    """What the configuration starts from. Raises ConfigError where its parts do not fit together."""
    num_classes, image_shape = data.train.num_classes, data.train.image_shape
    model = flaxarch.create(config.model, num_classes=num_classes, dtype=jnp.dtype(config.dtype))
    variables, remarks = None, ()
    mean, std, channels = data.mean, data.std, "RGB"
    if config.weights is not None:
        loaded, variables, remarks = _load(config, num_classes, image_shape[2])
        model = loaded.clone(dtype=jnp.dtype(config.dtype))
        mean, std, channels = pixels_of(recognise(config.weights, config.model), image_shape[2])
    if config.survival_prob is not None:
        if not hasattr(model, "survival_prob"):
            raise ConfigError(f"survival_prob is for networks with residual blocks; {config.model} has none")
        model = model.clone(survival_prob=config.survival_prob)
    if config.dropout_rate is not None:
        if not hasattr(model, "dropout_rate"):
            raise ConfigError(f"dropout_rate is for networks with dropout; {config.model} has none")
        model = model.clone(dropout_rate=config.dropout_rate)
    if config.freeze_batch_norm:
        model = flaxarch.freeze_batch_norm(model)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    params, _ = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    labels = _labels(config.freeze, model, params)
    scales = None
    if config.layer_decay != 1:
        scales = layer_scales(model, params, image_shape, config.layer_decay)
    return Start(model, variables, mean, std, channels, labels, scales, remarks)


def layer_scales(model: Network, params: Any, image_shape: tuple[int, ...], decay: float) -> Any:
    """Factors of the learning rate: 1 for the last module that has parameters, `decay` for the one before it.

    And so on; modules are those that the network itself holds, in the order in which an image meets them.
    Source: layer-wise decay of Clark et al. 2020, https://arxiv.org/abs/2003.10555, as in timm.
    """
    modules = [name for name in flaxarch.cost(model, image_shape).by_module(1) if name in params]
    depths = {name: len(modules) - 1 - i for i, name in enumerate(modules)}
    return {name: jax.tree.map(lambda _, d=depths[name]: decay**d, tree) for name, tree in params.items()}


def _load(
    config: Config, num_classes: int, in_channels: int
) -> tuple[Network, dict[str, Any], tuple[str, ...]]:
    assert config.weights is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model, variables = flaxarch.load(
                config.weights, config.model, num_classes=num_classes, in_channels=in_channels
            )
        except (CheckpointError, OSError) as error:
            raise ConfigError(f"weights: {error}") from error
    return model, variables, tuple(str(warning.message) for warning in caught)


def pixels_of(found: Recognised, num_channels: int) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, standard deviation and order of channels with which images came to the network of a checkpoint.

    They are the file's own, or its source's, or else the row's. Where the images have another number of
    channels, mean and deviation are the means over the network's.
    """
    fields = flaxarch.published(found.name)._asdict() | (found.preprocessing or {})

    def fitted(values: Sequence[float]) -> tuple[float, ...]:
        mean = sum(values) / len(values)
        return tuple(values) if len(values) == num_channels else (mean,) * num_channels

    order = fields["channels"] if num_channels == 3 else "RGB"
    return fitted(fields["mean"]), fitted(fields["std"]), order


def _labels(freeze: tuple[str, ...], model: Network, params: Any) -> Any:
    if not freeze:
        return None
    body = [f"{name}/*" for name in params if name not in (model.head, *model.aux_heads)]
    patterns = [x for pattern in freeze for x in (body if pattern == "body" else [pattern])]
    try:
        return flaxarch.label_params(params, {**dict.fromkeys(patterns, FROZEN), "**": TRAINED})
    except ValueError as error:
        sentence = str(error).replace("'**' labels no parameter", "nothing is left to train")
        raise ConfigError(f"freeze: {sentence}") from error
