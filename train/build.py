"""From a configuration to what a run needs: data, network, compiled steps; all fit together."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import flaxarch
from train.augment import Augmenter, make_augmenter
from train.config import Config, ConfigError, validate
from train.data import Dataset
from train.examples import open_examples
from train.losses import make_loss
from train.mix import Mix, make_mix
from train.optim import make_optimizer
from train.parallel import Partitioner, check_batch_size, make_partitioner
from train.schedules import make_schedule
from train.start import make_start
from train.step import TrainState, init_state, make_eval_step, make_train_step, normalise
from train.teacher import make_teacher


class Run(NamedTuple):
    """What a configuration stands for; nothing of it changes while the run goes on."""

    data: Dataset
    model: nn.Module
    normalise: Callable[[Any], jax.Array]
    pixels: dict[str, Any]  # mean, std and channels of `normalise`
    partitioner: Partitioner
    schedule: optax.Schedule
    new_state: Callable[[], TrainState]
    pure_step: Any
    teacher: Any  # variables of the network that is learned from
    train_step: Any  # compiled by the partitioner, as is eval_step
    eval_step: Any
    steps_per_epoch: int
    total_steps: int
    remarks: tuple[str, ...]  # on the weights that it starts from
    augmenter: Augmenter
    mix: Mix | None


def build(config: Config, data: Dataset | None = None) -> Run:
    """Everything that a run needs, checked for fitting together. Writes nothing. `data`: see `loop.train`."""
    validate(config)
    partitioner = make_partitioner(config)
    check_batch_size(config.batch_size, partitioner.num_devices, config.accumulate)
    data = open_examples(config, data)
    steps_per_epoch = len(data.train) // config.batch_size  # the rest of an epoch is left out
    total_steps = config.steps or config.epochs * steps_per_epoch

    schedule = make_schedule(config, steps_per_epoch, total_steps)
    image_shape = data.train.image_shape
    try:
        start, teacher = make_start(config, data), make_teacher(config, data)
        tx = make_optimizer(config, schedule, start.each, total_steps)
        average = config.ema_decay is not None
        new_state = partial(init_state, start.model, tx, config.seed, image_shape, average=average)
        new_state = jax.jit(new_state)
        new_state = partial(new_state, start.variables, start.whitening)
        jax.eval_shape(new_state)
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(flaxarch.functional(start.model).init, jax.random.key(0), images)
    except ValueError as error:  # flaxarch's: no such network, images that it cannot take
        raise ConfigError(str(error)) from error
    normalisation: Any = {"mean": start.mean, "std": start.std, "channels": start.channels}
    mix = make_mix(config, data.train.num_classes, partitioner.num_devices)
    of_teacher = teacher and teacher.variables
    train_step = make_train_step(
        start.model,
        tx,
        seed=config.seed,
        **normalisation,
        labels=start.each.labels,
        loss=make_loss(config),
        mix=mix,
        distillation=teacher and teacher.distillation,
        ramp_steps=round(config.ramp_epochs * steps_per_epoch),
        batch_norm_devices=config.batch_norm_devices,
        accumulate=config.accumulate,
        sam_radius=config.sam_radius,
        ema_decay=config.ema_decay,
        remat=config.remat,
        skip_nonfinite=config.skip_nonfinite > 0,
    )
    return Run(
        data,
        start.model,
        partial(normalise, **normalisation),
        normalisation,
        partitioner,
        schedule,
        new_state,
        train_step,
        of_teacher,
        partitioner.compile_train(train_step, of_teacher),
        partitioner.compile_eval(make_eval_step(start.model, **normalisation, test_views=config.test_views)),
        steps_per_epoch,
        total_steps,
        start.remarks,
        make_augmenter(config, image_shape, start.mean[::-1] if start.channels == "BGR" else start.mean),
        mix,
    )
