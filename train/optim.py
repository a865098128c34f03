"""Gradients to updates, by optax: the optimizer, what is decayed and clipped, and what wraps it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train.config import Config


class PerParameter(NamedTuple):
    """What differs from parameter to parameter: trees like theirs; None where nothing does."""

    labels: Any = None  # "trained" or "frozen"; what is frozen has no update and takes no memory
    scales: Any = None  # factors of the learning rate
    gradient_scales: Any = None  # factors of the gradients
    num_updates: Any = None  # after which a parameter stays as it is; infinite for most


def make_optimizer(
    config: Config, schedule: optax.Schedule, each: PerParameter | None = None, total_steps: int = 1
) -> optax.GradientTransformation:
    """The optimizer that the configuration describes.

    Args:
      config: of it, from `optimizer` to `lookahead_power`.
      schedule: learning rate of the update that follows `count` others.
      each: what differs between the parameters; None: nothing.
      total_steps: updates in the run, for `lookahead_power`.
    """
    each = each or PerParameter()
    tx = _OPTIMIZERS[config.optimizer](config, schedule, _everything if config.decay_all else is_kernel)
    if each.gradient_scales is not None:
        tx = optax.chain(_times(each.gradient_scales), tx)
    if config.clip_norm is not None:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
    if each.scales is not None:
        tx = optax.chain(tx, _times(each.scales))
    if each.num_updates is not None:
        tx = optax.chain(tx, _stop_after(each.num_updates))
    if config.lookahead_period is not None:
        step = lookahead_steps(config.lookahead_step, config.lookahead_power, total_steps)
        tx = lookahead(tx, config.lookahead_period, step)
    if each.labels is not None:
        tx = optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, each.labels)
    return tx


def _times(factors: Any) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: optax.tree.mul(updates, _like(factors, updates)))


def _stop_after(num_updates: Any) -> optax.GradientTransformation:
    """Updates as they are, but zeros for each parameter that has had its number of them."""

    def init(params: Any) -> Any:
        del params
        return jnp.int32(0)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def unless_over(change: jax.Array, number: float) -> jax.Array:
            return jnp.where(state < number, change, 0)

        return jax.tree.map(unless_over, updates, _like(num_updates, updates)), state + 1

    return optax.GradientTransformation(init, update)


def _like(values: Any, updates: Any) -> Any:
    """The values of those parameters that have an update: `multi_transform` masks what is frozen."""

    def is_masked(x: Any) -> bool:
        return isinstance(x, optax.MaskedNode)

    return jax.tree.map(lambda x, value: x if is_masked(x) else value, updates, values, is_leaf=is_masked)


Mask = Callable[[Any], Any]


def _sgd(config: Config, schedule: optax.Schedule, mask: Mask) -> optax.GradientTransformation:
    """As torch.optim.SGD: decay is added to the gradient before the momentum, which is a sum of gradients.

    The momentum is scaled by the rate of the step that uses it.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=mask),
        optax.sgd(schedule, momentum=config.momentum or None, nesterov=config.nesterov),
    )


def _rmsprop(config: Config, schedule: optax.Schedule, mask: Mask) -> optax.GradientTransformation:
    """As TensorFlow's RMSProp, with which the Inceptions were trained: epsilon is inside the square root.

    The mean of squares starts at one, and the momentum is a sum of updates that are scaled by their rates.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=mask),
        optax.rmsprop(
            schedule,
            decay=config.rms_decay,
            eps=_epsilon(config, 1e-10),
            initial_scale=1.0,
            momentum=config.momentum or None,
            nesterov=config.nesterov,
        ),
    )


def _adamw(config: Config, schedule: optax.Schedule, mask: Mask) -> optax.GradientTransformation:
    """Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101."""
    epsilon = _epsilon(config, 1e-8)
    return optax.adamw(
        schedule, config.beta1, config.beta2, epsilon, weight_decay=config.weight_decay, mask=mask
    )


def _lamb(config: Config, schedule: optax.Schedule, mask: Mask) -> optax.GradientTransformation:
    """You et al. 2020, https://arxiv.org/abs/1904.00962."""
    epsilon = _epsilon(config, 1e-6)
    return optax.lamb(
        schedule, config.beta1, config.beta2, epsilon, weight_decay=config.weight_decay, mask=mask
    )


def _muon(config: Config, schedule: optax.Schedule, mask: Mask) -> optax.GradientTransformation:
    """Jordan et al. 2024, https://kellerjordan.github.io/posts/muon: orthogonal updates of the kernels.

    A convolution's kernel is the matrix (inputs of a unit, units). Heads, biases and batch norm, for which it
    is not meant, have AdamW.
    """
    return optax.contrib.muon(
        schedule,
        beta=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        weight_decay_mask=mask,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        muon_weight_dimension_numbers=_matrices,
    )


_OPTIMIZERS = {"sgd": _sgd, "rmsprop": _rmsprop, "adamw": _adamw, "lamb": _lamb, "muon": _muon}


def _epsilon(config: Config, default: float) -> float:
    return default if config.epsilon is None else config.epsilon


def _matrices(params: Any) -> Any:
    """How muon sees each parameter: a convolution's kernel (h, w, inputs, units) as a matrix."""
    numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    return jax.tree.map(lambda x: numbers if x.ndim == 4 else None, params)


def is_kernel(params: Any) -> Any:
    """True at the leaves named `kernel`: convolutions' and dense layers' weights."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _everything(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)


class LookaheadState(NamedTuple):
    """The slow weights, and what the inner optimizer keeps."""

    num_updates: jax.Array
    slow: Any
    inner: Any


def lookahead_steps(last: float, power: float, total_steps: int) -> optax.Schedule:
    """The share by which lookahead's slow weights follow after `count` updates: from 1 at 0 to `last`.

    Falls with a power of the updates made, the third in Jordan 2024's code; with the power 0 it is `last`.
    """
    return lambda count: 1 - (1 - last) * (count / total_steps) ** power


def lookahead(
    inner: optax.GradientTransformation, period: int, step: optax.Schedule
) -> optax.GradientTransformation:
    """Zhang et al. 2019, https://arxiv.org/abs/1907.08610, Algorithm 1.

    After every `period` updates the slow weights go the share `step(updates made)` of the way to the fast
    ones, which go on from there. (`optax.lookahead` wants the parameters in pairs, fast and slow, wherever
    they are used.)
    """

    def init(params: Any) -> Any:
        return LookaheadState(jnp.int32(0), jax.tree.map(jnp.array, params), inner.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, inner_state = inner.update(updates, state.inner, params)
        num_updates = state.num_updates + 1
        is_sync = num_updates % period == 0

        def new_slow(slow: jax.Array, x: jax.Array, change: jax.Array) -> jax.Array:
            return jnp.where(is_sync, slow + step(num_updates) * (x + change - slow), slow)

        slow = jax.tree.map(new_slow, state.slow, params, updates)
        synced = jax.tree.map(
            lambda new, x, change: jnp.where(is_sync, new - x, change), slow, params, updates
        )
        return synced, LookaheadState(num_updates, slow, inner_state)

    return optax.GradientTransformation(init, update)
