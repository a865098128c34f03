"""Methods that keep a memory: orders, steps undone, gradients that keep one state, and their memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxarch.depth import (
    EULER,
    RK4,
    Leapfrog,
    LinearMultistep,
    Momentum,
    Multistep,
    TwoStepMidpoint,
    solve,
)

REVERSIBLE = [TwoStepMidpoint(), Leapfrog(), Momentum(0.9)]
each_reversible = pytest.mark.parametrize("method", REVERSIBLE, ids=lambda x: type(x).__name__)


def vector_field(t: jax.Array, x: jax.Array, theta: Any) -> jax.Array:
    return jnp.tanh(x @ (theta["constant"] + t * theta["linear"]) + theta["bias"][None])


def problem(dtype: Any = np.float64) -> tuple[jax.Array, Any]:
    """x(0) and theta."""
    rng = np.random.default_rng(0)
    draw = partial(rng.normal, 0, 0.7)
    theta = {"constant": draw(size=(4, 4)), "linear": draw(size=(4, 4)), "bias": draw(size=4)}
    return jnp.asarray(rng.normal(size=(3, 4)), dtype), jax.tree.map(lambda x: jnp.asarray(x, dtype), theta)


def times(num_steps: int) -> np.ndarray:
    return np.linspace(0, 1, num_steps + 1)


def test_methods_have_their_orders():
    def second_order(t: jax.Array, state: jax.Array, theta: Any) -> jax.Array:
        """x'' = f as x' = v, v' = f."""
        x, v = jnp.split(state, 2)
        return jnp.concatenate([v, vector_field(t, x, theta)])

    with jax.enable_x64(True):
        x, theta = problem()
        exact = solve(vector_field, x, theta, times(64), RK4)
        from_rest = solve(second_order, jnp.concatenate([x, 0 * x]), theta, times(64), RK4)[:3]
        for method, order, limit in (
            (TwoStepMidpoint(), 2, exact),
            (Leapfrog(), 2, from_rest),
            (LinearMultistep(0.0), 1, exact),
            (Momentum(0.0), 1, exact),
        ):
            ends = [solve(vector_field, x, theta, times(n), method) for n in (32, 64)]
            coarse, fine = (np.linalg.norm(end - limit) for end in ends)
            assert abs(np.log2(coarse / fine) - order) < 0.15, method


def test_momentum_and_k_of_zero_are_eulers_method():
    x, theta = problem(np.float32)
    expected = solve(vector_field, x, theta, times(5), EULER)
    for method in (Momentum(0.0), LinearMultistep(0.0)):
        np.testing.assert_allclose(solve(vector_field, x, theta, times(5), method), expected, rtol=1e-6)


def test_linear_multistep_is_the_recursion_of_the_paper():
    x, theta = problem(np.float32)
    states, k, h = [x, x], 0.3, 0.25  # the first block is a ResNet's
    for i in range(4):
        slope = vector_field(jnp.float32(i * h), states[-1], theta)
        states.append((1 - k) * states[-1] + k * states[-2] + h * slope)
    found = solve(vector_field, x, theta, times(4), LinearMultistep(k))
    np.testing.assert_allclose(found, states[-1], rtol=1e-5)


@each_reversible
def test_undone_step_gives_the_state_back(method: Multistep):
    x, theta = problem(np.float32)
    field = partial(vector_field, jnp.float32(0.2), theta=theta)
    state = x, 0.1 * jnp.cos(x)
    back = method.undo(method.step(state, field(x), 0.3), field, 0.3)
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-6), back, state)


@each_reversible
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-9)])
def test_gradients_of_states_found_again_are_those_of_backpropagation(
    method: Multistep, dtype: Any, tolerance: float
):
    def loss(x: jax.Array, theta: Any, reversible: bool) -> jax.Array:
        return (solve(vector_field, x, theta, times(24), method, reversible=reversible) ** 2).sum()

    with jax.enable_x64(dtype is np.float64):
        x, theta = problem(dtype)
        found, expected = (
            jax.jit(jax.grad(partial(loss, reversible=r), (0, 1)))(x, theta) for r in (True, False)
        )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == b.dtype == dtype
            assert np.linalg.norm(a - b) < tolerance * np.linalg.norm(b)


def peak(num_steps: int, reversible: bool) -> int:
    """Bytes that the compiled gradient needs beside its arguments and results."""

    def loss(x: jax.Array, theta: jax.Array) -> jax.Array:
        field = lambda t, x, theta: jnp.tanh(theta * x)  # noqa: E731
        return solve(field, x, theta, times(num_steps), Leapfrog(), reversible=reversible).sum()

    shape = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(shape, jax.ShapeDtypeStruct((), jnp.float32)).compile()
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes


def test_memory_of_the_gradient_does_not_grow_with_the_number_of_steps():
    assert peak(128, reversible=True) <= 1.05 * peak(16, reversible=True)
    assert peak(128, reversible=False) > 6 * peak(16, reversible=False)


def test_steps_that_cannot_be_taken_or_undone_are_told():
    x, theta = problem(np.float32)
    with pytest.raises(ValueError, match=r"takes steps of one length, not from 0\.1 to 0\.9"):
        solve(vector_field, x, theta, np.array([0, 0.1, 1]), Leapfrog())
    for method, message in ((LinearMultistep(0.2), "is not reversible"), (RK4, "cannot be undone")):
        with pytest.raises(ValueError, match=message):
            solve(vector_field, x, theta, times(2), method, reversible=True)


def test_step_that_forgets_its_past_says_that_it_cannot_be_undone():
    x = jnp.ones((1, 2))
    with pytest.raises(ValueError, match="LinearMultistep cannot be undone"):
        LinearMultistep(0.5).undo((x, x), jnp.sin, 0.1)
