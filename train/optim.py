"""SGD in torch's form, and the learning-rate schedules."""

from typing import Any

import jax
import optax

from train.config import Config, ConfigError


def make_schedule(config: Config, steps_per_epoch: int, total_steps: int) -> optax.Schedule:
    """Learning rate of the update that follows `count` others; the last has count total_steps - 1."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= total_steps:
        raise ConfigError(
            f"warmup_epochs {config.warmup_epochs:g} are {warmup} steps of a run of {total_steps}; "
            "the warm-up has to be shorter than the run"
        )
    main = _main_schedule(config, total_steps - warmup)
    if not warmup:
        return main
    # A line that would be 0 one step before the run, so that no update is lost on a rate of 0.
    rise = optax.linear_schedule(config.learning_rate / (warmup + 1), config.learning_rate, warmup)
    return optax.join_schedules([rise, main], [warmup])


def _main_schedule(config: Config, steps: int) -> optax.Schedule:
    match config.schedule:
        case "constant":
            return optax.constant_schedule(config.learning_rate)
        case (
            "step"
        ):  # He et al. 2016, https://arxiv.org/abs/1512.03385, Sec. 4.2: at 32k and 48k of 64k steps
            return optax.piecewise_constant_schedule(
                config.learning_rate, {steps // 2: 0.1, steps * 3 // 4: 0.1}
            )
        case "cosine":
            return optax.cosine_decay_schedule(config.learning_rate, steps)
        case "linear":
            return optax.linear_schedule(config.learning_rate, 0.0, steps)
        case "one_cycle":
            return one_cycle_schedule(config.learning_rate, steps)


def one_cycle_schedule(
    peak_value: float,
    total_steps: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> optax.Schedule:
    """torch's OneCycleLR with cosine annealing, with its defaults; momentum is not cycled.

    Rises from peak_value / div_factor to peak_value at count pct_start * total_steps - 1, then falls to
    peak_value / div_factor / final_div_factor at count total_steps - 1. (`optax.cosine_onecycle_schedule`
    turns one step later, and at whole numbers only.)
    """
    turns: Any = {  # annotated as whole numbers in optax, which interpolates between any
        pct_start * total_steps - 1: div_factor,
        total_steps - 1: 1 / (div_factor * final_div_factor),
    }
    return optax.piecewise_interpolate_schedule("cosine", peak_value / div_factor, turns)


def make_optimizer(
    config: Config, schedule: optax.Schedule, labels: Any = None
) -> optax.GradientTransformation:
    """SGD with momentum as torch.optim.SGD computes it, but with decay on kernels alone.

    `labels` has "trained" or "frozen" for each parameter, and None is all trained; what is frozen has no
    update and takes no memory.

    Weight decay is added to the gradient before the momentum (torch's coupled form, not AdamW's decoupled
    one), and the momentum is a sum of gradients, scaled by the rate of the step that uses it.
    """
    sgd = optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=is_kernel),
        optax.sgd(schedule, momentum=config.momentum or None, nesterov=config.nesterov),
    )
    if labels is None:
        return sgd
    return optax.multi_transform({"trained": sgd, "frozen": optax.set_to_zero()}, labels)


def is_kernel(params: Any) -> Any:
    """True at the leaves named `kernel`: convolutions' and dense layers' weights."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
