"""Solvers and adjoints of diffrax on a stage."""

import builtins
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxarch.depth import EULER, RK4, Flow, piecewise_constant, solve, solve_by
from flaxarch.depth.adaptive import ADAPTIVE, FIXED
from tests.depth.test_flow import smooth_flow

pytest.importorskip("diffrax")
SOLVERS = [
    pytest.param(name, marks=() if name == "tsit5" else pytest.mark.slow) for name in (*FIXED, *ADAPTIVE)
]


def stepped_flow() -> tuple[Flow, Any, jax.Array]:
    """The same blocks, with theta(t) as it jumps from one to the next."""
    flow, theta, x = smooth_flow(3)
    blocks = jax.tree.map(lambda leaf: np.stack([leaf[0], leaf[0] + leaf[1], leaf[0] - leaf[2]]), theta)
    return replace(flow, basis=piecewise_constant), blocks, x


def small_flow() -> tuple[Flow, Any, jax.Array]:
    """For what is refused before anything is computed."""
    with jax.enable_x64(True):
        return smooth_flow(3)


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_comes_to_where_runge_kutta_does(name: str):
    with jax.enable_x64(True):
        flow, theta, x = smooth_flow(3)
        exact = solve(flow.vector_field, x, theta, flow.times(64), RK4)
        found = jax.jit(lambda x, theta: solve_by(flow, x, theta, name, num_steps=16))(x, theta)
        assert found.num_steps == 16
        tolerance = 0.05 if name in ("euler", "implicit_euler") else 5e-3
        assert np.linalg.norm(found.x - exact) < tolerance * np.linalg.norm(exact - x)


def test_euler_of_diffrax_is_ours():
    with jax.enable_x64(True):
        flow, theta, x = smooth_flow(3)
        found = solve_by(flow, x, theta, "euler", num_steps=5).x
        np.testing.assert_allclose(
            found, solve(flow.vector_field, x, theta, flow.times(5), EULER), rtol=1e-12
        )


def test_smaller_tolerance_takes_more_steps_and_errs_less_though_theta_jumps():
    with jax.enable_x64(True):
        flow, theta, x = stepped_flow()
        exact = solve(flow.vector_field, x, theta, flow.times(96), RK4)

        @jax.jit
        def both(x: jax.Array, theta: Any) -> Any:
            return [solve_by(flow, x, theta, "tsit5", tolerance=tolerance) for tolerance in (1e-3, 1e-8)]

        loose, tight = both(x, theta)
        assert loose.num_steps < tight.num_steps
        errors = [np.abs(found.x - exact).max() for found in (loose, tight)]
        assert errors[1] < 1e-6 < errors[0] < 1e-2


@pytest.mark.parametrize(
    ("adjoint", "tolerance"),
    [
        ("backsolve", 0.1),
        *(pytest.param(x, 1e-12, marks=pytest.mark.slow) for x in ("direct", "recursive_checkpoint")),
    ],
)
def test_adjoints_give_the_gradient_of_backpropagation(adjoint: Any, tolerance: float):
    def loss(theta: Any, by_diffrax: bool) -> jax.Array:
        if by_diffrax:
            return (solve_by(flow, x, theta, "euler", num_steps=64, adjoint=adjoint).x ** 2).sum()
        return (solve(flow.vector_field, x, theta, flow.times(64), EULER) ** 2).sum()

    with jax.enable_x64(True):
        flow, theta, x = smooth_flow(3)
        theta = jax.tree.map(jnp.asarray, theta)
        found, expected = (jax.jit(jax.grad(partial(loss, by_diffrax=each)))(theta) for each in (True, False))
        for a, b in zip(jax.tree.leaves(found["params"]), jax.tree.leaves(expected["params"]), strict=True):
            assert np.linalg.norm(a - b) < tolerance * np.linalg.norm(b)


def test_what_cannot_be_solved_is_told_in_a_sentence():
    flow, theta, x = small_flow()
    for options, message in (
        ({}, "give num_steps or tolerance"),
        ({"num_steps": 2, "tolerance": 0.1}, "give num_steps or tolerance"),
        ({"solver": "euler", "tolerance": 0.1}, "euler does not tell its error"),
        ({"solver": "rk5", "num_steps": 2}, "there is no solver 'rk5': there are bosh3, "),
        ({"adjoint": "implicit", "num_steps": 2}, "there is no adjoint 'implicit': there are direct, "),
    ):
        with pytest.raises(ValueError, match=message):
            solve_by(flow, x, theta, **options)


def test_missing_diffrax_is_told_in_a_sentence():
    flow, theta, x = small_flow()
    imported = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "diffrax":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    patched = mock.patch.object(builtins, "__import__", without)
    with patched, pytest.raises(ImportError, match=r"pip install 'flaxarch\[ode\]'"):
        solve_by(flow, x, theta, num_steps=2)
