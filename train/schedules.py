"""Learning-rate schedules, by optax; all but `one_cycle` may follow a linear warm-up."""

from typing import Any

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
    main = _main_schedule(config, steps_per_epoch, total_steps - warmup)
    if not warmup:
        return main
    # From 0 it is a line that would be there one step before the run: no update is lost on a rate of 0.
    start = config.warmup_start or 1 / (warmup + 1)
    rise = optax.linear_schedule(config.learning_rate * start, config.learning_rate, warmup)
    return optax.join_schedules([rise, main], [warmup])


def _main_schedule(config: Config, steps_per_epoch: int, steps: int) -> optax.Schedule:
    peak, end = config.learning_rate, config.end_learning_rate
    match config.schedule:
        case "constant":
            return optax.constant_schedule(peak)
        case "step":
            turns = {round(share * steps): config.step_factor for share in config.step_shares}
            return optax.piecewise_constant_schedule(peak, turns)
        case "cosine":
            return optax.cosine_decay_schedule(peak, steps, alpha=end / peak)
        case "linear":
            return optax.linear_schedule(peak, end, steps)
        case "polynomial":
            return optax.polynomial_schedule(peak, end, config.decay_power, steps)
        case "exponential":
            every = max(1, round(config.decay_epochs * steps_per_epoch))
            return optax.exponential_decay(peak, every, config.decay_rate, staircase=True, end_value=end)
        case "one_cycle":
            return one_cycle_schedule(peak, steps)


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
