import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxarch
from train.config import Config, ConfigError
from train.optim import is_kernel, make_optimizer, make_schedule, one_cycle_schedule


def rates(schedule: optax.Schedule, counts: Iterable[int]) -> list[float]:
    return [float(jnp.asarray(schedule(count))) for count in counts]


def torch_one_cycle(step: int, total_steps: int, max_lr: float) -> float:
    """The documented formula of torch.optim.lr_scheduler.OneCycleLR, cosine annealing, default arguments."""
    initial, lowest = max_lr / 25, max_lr / 25 / 1e4
    turn, end = 0.3 * total_steps - 1, total_steps - 1
    start, stop, part = initial, max_lr, step / turn
    if step > turn:
        start, stop, part = max_lr, lowest, (step - turn) / (end - turn)
    return stop + (start - stop) / 2 * (1 + math.cos(math.pi * part))


@pytest.mark.parametrize("total_steps", [4, 10, 33, 1955])
def test_one_cycle_is_torchs(total_steps: int):
    schedule = one_cycle_schedule(0.3, total_steps)
    steps = [*range(0, total_steps, max(1, total_steps // 50)), total_steps - 1]
    expected = [torch_one_cycle(step, total_steps, 0.3) for step in steps]
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("total_steps", [1, 2, 3])
def test_one_cycle_of_a_few_steps_is_finite(total_steps: int):
    found = rates(one_cycle_schedule(0.3, total_steps), range(total_steps))
    assert all(0 < rate <= 0.3001 for rate in found)


def test_step_schedule_divides_by_ten_at_half_and_three_quarters():
    schedule = make_schedule(Config(schedule="step", learning_rate=1.0), 10, 100)
    found = rates(schedule, (0, 49, 50, 74, 75, 99))
    np.testing.assert_allclose(found, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_constant_cosine_and_line_start_at_the_rate_and_end_where_they_say():
    for name, middle, last in [("constant", 1, 1), ("cosine", 0.5, 0.00025), ("linear", 0.5, 0.01)]:
        schedule = make_schedule(Config(schedule=name, learning_rate=1.0), 10, 100)
        np.testing.assert_allclose(rates(schedule, (0, 50, 99)), [1, middle, last], atol=1e-5)


def test_warmup_rises_in_equal_steps_to_the_rate_of_the_schedule():
    config = Config(schedule="constant", learning_rate=1.0, warmup_epochs=0.4)
    schedule = make_schedule(config, 10, 100)
    np.testing.assert_allclose(rates(schedule, range(6)), [0.2, 0.4, 0.6, 0.8, 1, 1], rtol=1e-6)


def test_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(ConfigError, match="10 steps of a run of 10"):
        make_schedule(Config(schedule="cosine", warmup_epochs=1), 10, 10)


def test_weight_decay_touches_kernels_only():
    params = {"conv": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}, "bn": {"scale": jnp.ones(3)}}
    assert is_kernel(params) == {"conv": {"kernel": True, "bias": False}, "bn": {"scale": False}}
    tx = make_optimizer(Config(weight_decay=0.1, momentum=0.0), optax.constant_schedule(1.0))
    updates: Any = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0]
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.1)
    np.testing.assert_array_equal(updates["conv"]["bias"], 0)
    np.testing.assert_array_equal(updates["bn"]["scale"], 0)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updates_follow_the_formula_of_torchs_sgd(momentum: float, nesterov: bool):
    config = Config(weight_decay=0.1, momentum=momentum, nesterov=nesterov)
    tx = make_optimizer(config, lambda count: 0.5 / (count + 1))
    params: Any = {"kernel": jnp.array([1.0, -2.0])}
    state = tx.init(params)
    expected, buffer = np.array([1.0, -2.0]), np.zeros(2)
    rng = np.random.default_rng(0)
    for step in range(4):
        grad = rng.normal(size=2)
        updates, state = tx.update({"kernel": jnp.asarray(grad, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        decayed = grad + 0.1 * expected
        buffer = momentum * buffer + decayed
        direction = decayed + momentum * buffer if nesterov else buffer
        expected = expected - 0.5 / (step + 1) * direction
    np.testing.assert_allclose(params["kernel"], expected, rtol=1e-5)


def test_frozen_parameters_have_no_update_and_no_memory():
    params = {"conv": {"kernel": jnp.ones(3)}, "fc": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}}
    labels = flaxarch.label_params(params, {"conv/*": "frozen", "*": "trained"})
    tx = make_optimizer(Config(weight_decay=0.1), optax.constant_schedule(1.0), labels)
    state = tx.init(params)
    assert sum(x.size for x in jax.tree.leaves(state)) == 1 + 6  # the count of steps, momentum of fc
    updates: Any = tx.update(jax.tree.map(jnp.ones_like, params), state, params)[0]
    np.testing.assert_array_equal(updates["conv"]["kernel"], 0)
    assert (updates["fc"]["kernel"] < 0).all()
