"""The training and the evaluation step: pure functions of arrays, the same on one device and on many.

With `axis_name` a step is one device's part of a larger step: its batch is that device's share, and sums over
the axis make loss, gradients and metrics those of the whole batch. Without it the batch is whole.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

import flaxarch
from flaxarch.residual import skip_dropped
from train.losses import Distillation, Loss, correct_sum, cross_entropy_sum, distillation_sum
from train.mix import Mix, mix_batch
from train.ramp import with_share

# image uint8 (N, H, W, C); label int32 (N,), or targets (N, num_classes); mask float32 (N,)
Batch = dict[str, Any]
Metrics = dict[str, jax.Array]  # float32 scalars that may be added up over steps

EVAL_METRICS = ("loss", "correct", "count")  # sums over examples
TRAIN_METRICS = (*EVAL_METRICS, "grad_norm", "steps", "nonfinite")  # the last three are sums over steps


class TrainState(NamedTuple):
    """All that a step changes."""

    step: jax.Array  # updates made
    params: Any
    batch_stats: Any  # {} for families without BatchNorm
    opt_state: optax.OptState
    ema: Any = None  # {"params": ..., "batch_stats": ...}: their moving average, where there is one


class TrainStep(Protocol):
    """Makes one update."""

    def __call__(
        self, state: TrainState, batch: Batch, axis_name: str | None = None, teacher: Any = None
    ) -> tuple[TrainState, Metrics]:
        """The state after the update, and TRAIN_METRICS of the whole batch.

        `teacher`: variables of the network that is learned from, which stay as they are.
        """
        ...


class EvalStep(Protocol):
    """Measures one batch."""

    def __call__(self, params: Any, batch_stats: Any, batch: Batch, axis_name: str | None = None) -> Metrics:
        """EVAL_METRICS of the whole batch."""
        ...


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    seed: int,
    image_shape: Sequence[int],
    variables: Any = None,
    whitening: Any = None,
    *,
    average: bool = False,
) -> TrainState:
    """The state before the first update: drawn from the seed, or with `variables` as they are.

    `whitening` is the kernel of the network's whitening layer, in place of the drawn one. `average` is
    whether the state has a moving average too.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    if variables is not None:
        params, batch_stats = variables["params"], variables["batch_stats"]
    else:
        params, batch_stats = flaxarch.functional(model).init(jax.random.key(seed), images)
    if whitening is not None:
        layer = model.whitening  # pyright: ignore[reportAttributeAccessIssue]
        params = {**params, layer: params[layer] | {"kernel": whitening}}
    ema = {"params": params, "batch_stats": batch_stats} if average else None
    return TrainState(jnp.int32(0), params, batch_stats, tx.init(params), ema)


def step_keys(seed: int, step: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keys of stochastic depth, of dropout and of mixing in the update that follows `step` others."""
    gates_key, dropout_key, mix_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), 3)
    return gates_key, dropout_key, mix_key


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
    channels: str = "RGB",
    labels: Any = None,
    loss: Loss = cross_entropy_sum,
    mix: Mix | None = None,
    distillation: Distillation | None = None,
    ramp_steps: int = 0,
    batch_norm_devices: int | None = None,
    accumulate: int = 1,
    sam_radius: float = 0.0,
    ema_decay: float | None = None,
    remat: str = "none",
    skip_nonfinite: bool = False,
) -> TrainStep:
    """Returns train_step(state, batch, axis_name=None, teacher=None) -> (state, metrics).

    The metrics are TRAIN_METRICS; `nonfinite` is 1 for a step whose loss or gradient is not finite. The loss
    of a network with auxiliary heads has theirs in it, each times the network's `aux_weight`.

    Args:
        model: network whose BatchNorms take `axis_name`, if it has any.
        tx: turns gradients into updates.
        seed: of mixing, dropout and stochastic depth.
        mean: of each channel, of pixels in [0, 1].
        std: likewise.
        channels: order in which the network takes them, and `mean` and `std` are: RGB or BGR.
        labels: "trained" or "frozen" for each parameter, of which the latter have no gradient; None: all are
            trained.
        loss: of the labels.
        mix: how pairs of images become one, ahead of all else; None: they do not. Hits are then those of the
            label that has the larger part.
        distillation: what is learned from the `teacher` of the step; None: nothing.
        ramp_steps: in the first of them, the chances to drop units and blocks rise in a line from 0 to the
            network's.
        batch_norm_devices: how many devices, one after the other, take their batch statistics together; the
            running statistics are the mean over all. None: all take them together.
        accumulate: parts of the batch that are computed one after the other. Their gradients add up to the
            batch's; batch statistics are of one part, and run from part to part.
        sam_radius: sharpness-aware minimisation, Foret et al. 2021, https://arxiv.org/abs/2010.01412: the
            gradient is that of the parameters moved by this much along their own; statistics and metrics are
            of the parameters themselves. 0: none.
        ema_decay: share of the old moving average, as it is after ten updates and more; None: there is none.
        remat: what the backward pass computes anew in place of keeping it: "none", all between the ends of
            "stage"s, or "all" of the forward pass.
        skip_nonfinite: a step whose loss or gradient is not finite changes nothing but the number of steps,
            and its metrics are zeros but for `nonfinite`.
    """

    def train_step(
        state: TrainState, batch: Batch, axis_name: str | None = None, teacher: Any = None
    ) -> tuple[TrainState, Metrics]:
        gates_key, dropout_key, mix_key = step_keys(seed, state.step)
        if mix is not None:  # before the batch is split, for the halves of a pair would fall apart
            batch = mix_batch(mix, batch, mix_key)
        net: Any = model
        if axis_name is not None:
            # Units are dropped by each device for itself, blocks by all at once: they may hold collectives.
            dropout_key = jax.random.fold_in(dropout_key, lax.axis_index(axis_name))
            net = _with_synchronised_norms(model, axis_name, batch_norm_devices)
        ramp = jnp.minimum(1.0, state.step / ramp_steps) if ramp_steps else None
        total = _sum_over(axis_name)
        count = total(batch["mask"].sum())

        def loss_fn(params: Any, batch_stats: Any, part: Batch, part_key: jax.Array) -> tuple[jax.Array, Any]:
            if labels is not None:  # so that nothing is computed for what does not train
                params = jax.tree.map(_cut_where_frozen, params, labels)
            with with_share(net, ramp) as ramped, skip_dropped():
                outputs, updated = ramped.apply(
                    {"params": params, "batch_stats": batch_stats},
                    normalise(part["image"], mean, std, channels),
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": part_key, "gates": gates_key},
                )
            targets, mask = part["label"], part["mask"]
            logits, aux_logits = outputs if isinstance(outputs, tuple) else (outputs, ())
            value = loss(logits, targets, mask)
            for aux in aux_logits:
                value += net.aux_weight * loss(aux, targets, mask)
            if distillation is not None:
                value *= 1 - distillation.weight
                value += distillation.weight * distillation_sum(
                    logits, part["teacher_logits"], mask, distillation.temperature
                )
            return value / jnp.maximum(count, 1), (
                correct_sum(logits, targets, mask),
                updated.get("batch_stats", {}),
            )

        def with_teacher(part: Batch) -> Batch:
            """The part with what the teacher says to its images, once for all gradients."""
            if distillation is None:
                return part
            return part | {"teacher_logits": distillation.teacher(teacher, part["image"])}

        grad_fn = jax.value_and_grad(_remat(loss_fn, remat), has_aux=True)

        def gradient(params: Any) -> tuple[jax.Array, jax.Array, Any, Any]:
            """Loss, hits and gradients of the whole batch, and batch statistics."""
            if accumulate == 1:
                part = with_teacher(batch)
                (value, (correct, batch_stats)), grads = grad_fn(params, state.batch_stats, part, dropout_key)
                return *total((value, correct, grads)), batch_stats

            def add_part(carry: Any, part_and_key: Any) -> tuple[Any, None]:
                (sums, batch_stats), (part, key) = carry, part_and_key
                part = with_teacher(part)
                (value, (correct, batch_stats)), grads = grad_fn(params, batch_stats, part, key)
                return (jax.tree.map(jnp.add, sums, (value, correct, grads)), batch_stats), None

            parts = jax.tree.map(partial(_split, num_parts=accumulate), batch)
            zeros = jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
            keys = jax.random.split(dropout_key, accumulate)
            # A loop: of resnet20, 128 images in 4 parts on 2 CPU cores, parts written out took 1.2 times as
            # long a step, 1.4 times as long to compile and 4 times the memory.
            (sums, batch_stats), _ = lax.scan(add_part, (zeros, state.batch_stats), (parts, keys))
            return *total(sums), batch_stats

        mean_loss, correct, grads, batch_stats = gradient(state.params)
        grad_norm = optax.tree.norm(grads)
        if sam_radius:
            uphill = optax.tree.add_scale(state.params, sam_radius / (grad_norm + 1e-12), grads)
            grads = gradient(uphill)[2]
        if axis_name is not None and batch_norm_devices is not None:
            batch_stats = lax.pmean(batch_stats, axis_name)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay is not None:
            # Rises from 0.1, as TensorFlow's, so that the first values are soon forgotten.
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
            new = {"params": params, "batch_stats": batch_stats}
            ema = jax.tree.map(lambda old, x: x + decay.astype(x.dtype) * (old - x), ema, new)

        is_finite = jnp.isfinite(mean_loss + grad_norm)
        metrics = {"loss": mean_loss * count, "correct": correct, "count": count, "grad_norm": grad_norm}
        metrics["steps"] = jnp.float32(1)
        new = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
        if skip_nonfinite:
            old = state._replace(step=state.step + 1)
            new = jax.tree.map(partial(jnp.where, is_finite), new, old)
            metrics = jax.tree.map(lambda x: jnp.where(is_finite, x, 0.0), metrics)
        return new, metrics | {"nonfinite": 1.0 - is_finite}

    return train_step


def _with_synchronised_norms(model: Any, axis_name: str, num_devices: int | None) -> Any:
    """The network with batch statistics over groups of `num_devices` devices of the axis, or over all."""
    if num_devices == 1 or not hasattr(model, "axis_name"):
        return model
    model = model.clone(axis_name=axis_name)
    if num_devices is None:
        return model
    firsts = range(0, lax.axis_size(axis_name), num_devices)
    groups = tuple(tuple(range(first, first + num_devices)) for first in firsts)
    return model.clone(conventions=dataclasses.replace(model.conventions, groups=groups))


def _split(x: jax.Array, num_parts: int) -> jax.Array:
    """(N, ...) -> (num_parts, N / num_parts, ...): every num_parts-th example, so that none is moved."""
    return jnp.swapaxes(x.reshape(-1, num_parts, *x.shape[1:]), 0, 1)


def _remat(loss_fn: Any, remat: str) -> Any:
    policies = jax.checkpoint_policies
    match remat:
        case "stage":
            return jax.checkpoint(loss_fn, policy=policies.save_only_these_names("stage"))
        case "all":
            return jax.checkpoint(loss_fn, policy=policies.nothing_saveable)
    return loss_fn


def make_eval_step(
    model: nn.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    channels: str = "RGB",
    test_views: str = "one",
) -> EvalStep:
    """Returns eval_step(params, batch_stats, batch, axis_name=None) -> EVAL_METRICS.

    `test_views` says which views of an image are averaged: see `views`.
    """
    apply = flaxarch.functional(model).apply

    def eval_step(params: Any, batch_stats: Any, batch: Batch, axis_name: str | None = None) -> Metrics:
        images = normalise(batch["image"], mean, std, channels)
        logits = jnp.float32(0)
        for weight, view in views(images, test_views):
            logits += weight * apply(params, batch_stats, view, train=False)[0]
        labels, mask = batch["label"], batch["mask"]
        sums = {
            "loss": cross_entropy_sum(logits, labels, mask),
            "correct": correct_sum(logits, labels, mask),
            "count": mask.sum(),
        }
        return _sum_over(axis_name)(sums)

    return eval_step


def views(images: jax.Array, kind: str) -> list[tuple[float, jax.Array]]:
    """Views of images (N, H, W, C), with weights whose sum is one.

    "one" is the images; "flip" these and their mirror images; "flip_shift", with half of the weight, also
    both moved by a pixel down and right, and up and left, the border being reflected (Jordan 2024, Sec. 3.5).
    """
    if kind == "one":
        return [(1.0, images)]
    both = [images]
    if kind == "flip_shift":
        _, height, width, _ = images.shape
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        both += [padded[:, :height, :width], padded[:, 2:, 2:]]
    weights = [0.5] if kind == "flip" else [0.25, 0.125, 0.125]
    return [(w, view) for w, x in zip(weights, both, strict=True) for view in (x, x[:, :, ::-1])]


def normalise(
    images: jax.Array, mean: Sequence[float], std: Sequence[float], channels: str = "RGB"
) -> jax.Array:
    """RGB or grey (N, H, W, C), 0 to 255 -> float32 in the order of `channels`, RGB or BGR.

    `mean` and `std` are per channel, in that order, of pixels in [0, 1].
    """
    shape = (1, 1, 1, len(mean))
    ordered = images[..., ::-1] if channels == "BGR" else images
    return (ordered / 255.0 - jnp.reshape(jnp.array(mean), shape)) / jnp.reshape(jnp.array(std), shape)


def _cut_where_frozen(x: jax.Array, label: str) -> jax.Array:
    return lax.stop_gradient(x) if label == "frozen" else x


def _sum_over(axis_name: str | None) -> Any:
    return (lambda tree: tree) if axis_name is None else partial(lax.psum, axis_name=axis_name)
