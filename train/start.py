"""Where a run starts: a new network, or released weights with what is frozen of them."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flaxarch
from flaxarch.convert import CheckpointError, Recognised, recognise
from flaxarch.layers import Network
from flaxarch.loops import in_form_of
from flaxarch.models.airbench import whitening_kernel
from train.config import Config, ConfigError
from train.data import Dataset, Source
from train.optim import PerParameter
from train.step import normalise

TRAINED, FROZEN = "trained", "frozen"


class Start(NamedTuple):
    """The network of a run, and what it starts from."""

    model: Network
    variables: dict[str, Any] | None  # of the checkpoint; None: drawn from the seed
    mean: tuple[float, ...]  # with which images come to the network: the data's, or those of the weights
    std: tuple[float, ...]
    channels: str  # RGB or BGR
    each: PerParameter  # how each of them trains
    whitening: np.ndarray | None = None  # kernel of the network's whitening layer
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
    if config.scan:
        _check_scan(config, model)
        model = model.clone(scan=True)  # pyright: ignore[reportCallIssue]
        variables = in_form_of(model, variables)
    whitening = None
    if config.whiten:
        _check_whitening(config, model)
        sample = normalise(jnp.asarray(_spread(data.train)), mean, std, channels)
        whitening = whitening_kernel(np.asarray(sample))
        model = model.clone(whiten_features=whitening.shape[-1])  # pyright: ignore[reportCallIssue]
    elif config.whiten_bias_epochs is not None:
        raise ConfigError("whiten_bias_epochs is of the layer that whiten sets; give --whiten too")
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    params, batch_stats = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    steps_per_epoch = len(data.train) // config.batch_size
    each = _per_parameter(config, model, params, batch_stats, image_shape, steps_per_epoch)
    return Start(model, variables, mean, std, channels, each, whitening, remarks)


def _per_parameter(
    config: Config,
    model: Any,
    params: Any,
    batch_stats: Any,
    image_shape: tuple[int, ...],
    steps_per_epoch: int,
) -> PerParameter:
    scales = gradient_scales = num_updates = None
    if config.layer_decay != 1:
        scales = layer_scales(model, params, image_shape, config.layer_decay)
    if config.norm_bias_scale != 1:
        if config.optimizer != "sgd":
            raise ConfigError(
                f"norm_bias_scale is of sgd; {config.optimizer} undoes a scale of the gradients"
            )
        norms = {tuple(key.key for key in path[:-1]) for path, _ in jax.tree.leaves_with_path(batch_stats)}

        def scale(path: Any, _: Any) -> float:
            *module, leaf = (key.key for key in path)
            return config.norm_bias_scale if leaf == "bias" and tuple(module) in norms else 1.0

        gradient_scales = jax.tree.map_with_path(scale, params)
        if set(jax.tree.leaves(gradient_scales)) == {1.0}:
            raise ConfigError(f"norm_bias_scale is for networks with batch norm; {config.model} has none")
    frozen: dict[str, str] = {}
    if config.whiten:
        frozen = {f"{model.whitening}/kernel": FROZEN}
        if config.whiten_bias_epochs is not None:
            num_updates = jax.tree.map(lambda _: math.inf, params)
            num_updates[model.whitening]["bias"] = round(config.whiten_bias_epochs * steps_per_epoch)
    return PerParameter(_labels(config.freeze, frozen, model, params), scales, gradient_scales, num_updates)


def _spread(data: Source) -> np.ndarray:
    """5,000 training images, as many as Jordan 2024 takes, or all if there are fewer.

    They are evenly spread, for those of one class may stand together.
    """
    images, _ = data.load(np.linspace(0, len(data) - 1, min(5000, len(data))).astype(int))
    return images


def _check_scan(config: Config, model: Network) -> None:
    if not hasattr(model, "loops"):
        raise ConfigError(f"scan is for networks with stages of blocks, as ResNets; {config.model} is none")
    if config.optimizer in ("lamb", "muon"):
        raise ConfigError(
            f"scan stacks parameters of blocks, which {config.optimizer} treats each by itself; "
            "leave scan out, or take another optimizer"
        )
    if config.layer_decay != 1:
        raise ConfigError("scan stacks blocks, between which layer_decay differs; leave one of the two out")


def _check_whitening(config: Config, model: Network) -> None:
    if not hasattr(model, "whitening"):
        raise ConfigError(
            f"whiten is for networks with a layer for it, as airbench94; {config.model} has none"
        )
    if config.weights is not None:
        raise ConfigError("whiten sets a kernel that the weights have; leave one of the two out")


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
        except FileNotFoundError as error:
            raise ConfigError(f"weights: there is no file {config.weights}") from error
        except (CheckpointError, OSError) as error:
            raise ConfigError(f"weights: {_other_network(config) or error}") from error
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


def _labels(freeze: tuple[str, ...], frozen: dict[str, str], model: Network, params: Any) -> Any:
    if not freeze and not frozen:
        return None
    body = [f"{name}/*" for name in params if name not in (model.head, *model.aux_heads)]
    patterns = [x for pattern in freeze for x in (body if pattern == "body" else [pattern])]
    try:
        return flaxarch.label_params(params, {**frozen, **dict.fromkeys(patterns, FROZEN), "**": TRAINED})
    except ValueError as error:
        sentence = str(error).replace("'**' labels no parameter", "nothing is left to train")
        raise ConfigError(f"freeze: {sentence}") from error


def _other_network(config: Config) -> str:
    """What to say where the file holds another network than `config.model`; "" where that is not so."""
    assert config.weights is not None
    try:
        found = recognise(config.weights)
    except (CheckpointError, OSError):
        return ""
    if found.name == config.model:
        return ""
    return f"{config.weights.name} holds a {found.name}, not a {config.model}: --model {found.name} reads it"
