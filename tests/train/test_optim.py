import dataclasses
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
from train.optim import PerParameter, is_kernel, lookahead, lookahead_steps, make_optimizer
from train.schedules import make_schedule, one_cycle_schedule


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
    tx = make_optimizer(Config(weight_decay=0.1), optax.constant_schedule(1.0), PerParameter(labels))
    state = tx.init(params)
    assert sum(x.size for x in jax.tree.leaves(state)) == 1 + 6  # the count of steps, momentum of fc
    updates: Any = tx.update(jax.tree.map(jnp.ones_like, params), state, params)[0]
    np.testing.assert_array_equal(updates["conv"]["kernel"], 0)
    assert (updates["fc"]["kernel"] < 0).all()


def _paths(config: Config, gradient: Any, params: Any, steps: int) -> list[Any]:
    tx = make_optimizer(config, optax.constant_schedule(config.learning_rate))
    state, found = tx.init(params), []
    update = jax.jit(tx.update)
    for _ in range(steps):
        updates, state = update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb", "rmsprop", "muon"])
def test_every_optimizer_goes_down_a_bowl(optimizer: Any):
    config = Config(optimizer=optimizer, learning_rate=0.05, nesterov=False, weight_decay=0.0)
    rng = np.random.default_rng(0)
    params: Any = {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32)},
        "fc": {"kernel": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32), "bias": jnp.ones(5)},
    }
    *_, last = _paths(config, lambda tree: tree, params, 60)
    before, after = (optax.tree.norm(tree) for tree in (params, last))
    assert float(after) < 0.5 * float(before)


def test_rmsprop_is_tensorflows():
    """Mean of squares from one, epsilon inside the root, momentum of updates at their rates."""
    config = Config(
        optimizer="rmsprop", rms_decay=0.9, epsilon=1.0, momentum=0.9, nesterov=False, weight_decay=0.0
    )
    rates = [0.1, 0.05, 0.02]
    params: Any = {"kernel": jnp.array([1.0, -2.0])}
    tx = make_optimizer(config, lambda count: jnp.asarray(rates)[count])
    state, weights = tx.init(params), np.array([1.0, -2.0])
    squares, momentum = np.ones(2), np.zeros(2)
    for rate in rates:
        grads = {"kernel": 2 * params["kernel"]}
        updates: Any
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        gradient = 2 * weights
        squares = 0.9 * squares + 0.1 * gradient**2
        momentum = 0.9 * momentum + rate * gradient / np.sqrt(squares + 1.0)
        weights = weights - momentum
        np.testing.assert_allclose(params["kernel"], weights, rtol=1e-5)


def test_muons_update_of_a_convolution_is_near_orthogonal_and_heads_have_adam():
    config = Config(optimizer="muon", learning_rate=1.0, weight_decay=0.0, nesterov=False)
    rng = np.random.default_rng(0)
    grads: Any = {
        "conv": {"kernel": rng.normal(size=(3, 3, 4, 8))},
        "fc": {"kernel": rng.normal(size=(4, 5))},
    }
    grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads)
    (moved,) = _paths(config, lambda _: grads, jax.tree.map(jnp.zeros_like, grads), 1)
    values = np.linalg.svd(np.asarray(moved["conv"]["kernel"]).reshape(36, 8), compute_uv=False)
    assert values.min() > 0.6 * values.max()
    np.testing.assert_allclose(np.abs(moved["fc"]["kernel"]), 1.0, rtol=1e-3)  # Adam's first step


def test_weight_decay_on_everything_reaches_batch_norm():
    params = {"conv": {"kernel": jnp.ones(3)}, "bn": {"scale": jnp.ones(3)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    config = Config(weight_decay=0.1, momentum=0.0, decay_all=True, learning_rate=1.0)
    (moved,) = _paths(config, lambda _: zeros, params, 1)
    np.testing.assert_allclose(moved["bn"]["scale"], 0.9)


def test_long_gradients_are_cut_to_the_norm():
    config = Config(weight_decay=0.0, momentum=0.0, learning_rate=1.0, clip_norm=0.5)
    params = {"kernel": jnp.zeros(4)}
    (moved,) = _paths(config, lambda _: {"kernel": jnp.full(4, 3.0)}, params, 1)
    np.testing.assert_allclose(float(optax.tree.norm(moved)), 0.5, rtol=1e-5)
    (moved,) = _paths(config, lambda _: {"kernel": jnp.full(4, 0.1)}, params, 1)
    np.testing.assert_allclose(moved["kernel"], -0.1, rtol=1e-5)


def test_lookahead_is_its_algorithm():
    inner, params = optax.sgd(0.1), {"kernel": jnp.array([1.0, -2.0])}
    tx = lookahead(inner, period=3, step=lookahead_steps(0.5, 0, 8))
    state = tx.init(params)
    fast = slow = np.array([1.0, -2.0])
    for count in range(1, 8):
        updates: Any
        updates, state = tx.update({"kernel": 2 * params["kernel"]}, state, params)
        params: Any = optax.apply_updates(params, updates)
        fast = fast - 0.1 * 2 * fast
        if count % 3 == 0:
            slow = slow + 0.5 * (fast - slow)
            fast = slow
        np.testing.assert_allclose(params["kernel"], fast, rtol=1e-5)


def test_layers_further_from_the_head_learn_more_slowly():
    params = {"a": {"kernel": jnp.zeros(2)}, "b": {"kernel": jnp.zeros(2)}}
    scales = {"a": {"kernel": 0.5}, "b": {"kernel": 1.0}}
    tx = make_optimizer(
        Config(momentum=0.0, weight_decay=0.0), optax.constant_schedule(1.0), PerParameter(scales=scales)
    )
    updates: Any = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)[0]
    np.testing.assert_allclose(updates["a"]["kernel"], -0.5)
    np.testing.assert_allclose(updates["b"]["kernel"], -1.0)


def test_polynomial_and_exponential_schedules():
    schedule = make_schedule(Config(schedule="polynomial", learning_rate=1.0, decay_power=2.0), 10, 100)
    np.testing.assert_allclose(rates(schedule, (0, 50, 99)), [1, 0.25, 0.0001], atol=1e-6)
    config = Config(schedule="exponential", learning_rate=1.0, decay_rate=0.5, decay_epochs=2.0)
    schedule = make_schedule(dataclasses.replace(config, end_learning_rate=0.2), 10, 100)
    np.testing.assert_allclose(
        rates(schedule, (0, 19, 20, 39, 40, 60)), [1, 1, 0.5, 0.5, 0.25, 0.2], rtol=1e-6
    )


def test_cosine_ends_where_it_should():
    schedule = make_schedule(Config(schedule="cosine", learning_rate=1.0, end_learning_rate=0.1), 10, 100)
    np.testing.assert_allclose(rates(schedule, (0, 50, 100)), [1, 0.55, 0.1], rtol=1e-6)


def test_scale_of_gradients_leaves_the_decay_as_it_is():
    params = {"bn": {"scale": jnp.array(2.0), "bias": jnp.array(3.0)}}
    each = PerParameter(gradient_scales={"bn": {"scale": 1.0, "bias": 64.0}})
    config = Config(momentum=0.0, weight_decay=0.5, decay_all=True)
    tx = make_optimizer(config, optax.constant_schedule(0.1), each)
    updates: Any = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)[0]
    np.testing.assert_allclose(updates["bn"]["scale"], -0.1 * (1 + 0.5 * 2), rtol=1e-6)
    np.testing.assert_allclose(updates["bn"]["bias"], -0.1 * (64 + 0.5 * 3), rtol=1e-6)


def test_parameter_stays_after_its_number_of_updates_beside_frozen_ones():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2), "c": jnp.zeros(2)}
    labels = {"a": "trained", "b": "trained", "c": "frozen"}
    each = PerParameter(labels, num_updates={"a": 2, "b": math.inf, "c": math.inf})
    config = Config(momentum=0.5, weight_decay=0.0)
    tx = make_optimizer(config, optax.constant_schedule(1.0), each)
    state, moved = tx.init(params), []
    for _ in range(4):
        updates: Any
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        moved.append({name for name, x in updates.items() if x.any()})
    assert moved == [{"a", "b"}, {"a", "b"}, {"b"}, {"b"}]


def test_lookahead_follows_ever_more_slowly_where_asked():
    share = lookahead_steps(0.25, 3, 10)
    np.testing.assert_allclose(rates(share, (0, 5, 10)), [1, 1 - 0.75 / 8, 0.25])
    np.testing.assert_allclose(rates(lookahead_steps(0.25, 0, 10), (1, 10)), [0.25, 0.25])


def test_warm_up_may_begin_above_zero_and_ends_at_the_peak():
    config = Config(
        schedule="linear", learning_rate=2.0, warmup_epochs=3, warmup_start=0.2, end_learning_rate=0.14
    )
    schedule = make_schedule(config, 10, 100)
    counts = [0, 10, 30, 65, 99]
    expected = np.interp(counts, [0, 30, 100], [0.4, 2.0, 0.14])
    np.testing.assert_allclose(rates(schedule, counts), expected, rtol=1e-5)
