"""Regions of stability: equal to what the solvers do, and to their known ends on the imaginary axis."""

import jax.numpy as jnp
import numpy as np
import pytest

from flaxarch.depth import EULER, HEUN, MIDPOINT, RK4, Solver, solve
from flaxarch.depth.regions import LEAPFROG, TWO_STEP, amplification, is_stable


@pytest.mark.parametrize("solver", [EULER, HEUN, MIDPOINT, RK4], ids=["Euler", "Heun", "midpoint", "RK4"])
def test_amplification_is_what_a_step_of_the_solver_does(solver: Solver):
    """x' = z x as a real system of two."""
    for z in (-0.7 + 0.4j, 1.3j, 0.2 - 2.5j):
        matrix = jnp.array([[z.real, -z.imag], [z.imag, z.real]])
        x = solve(lambda t, x, theta: theta @ x, jnp.array([1.0, 0.0]), matrix, np.arange(2.0), solver)
        np.testing.assert_allclose(jnp.linalg.norm(x), amplification(z, solver), rtol=1e-5)


def test_leapfrogs_amplification_is_the_spectral_radius_of_its_step():
    for a, b in ((1.0, -1.7), (0.9, 0.4), (2.0, -2.1)):
        kick, drift = np.array([[1.0, a], [0.0, 1.0]]), np.array([[1.0, 0.0], [b, 1.0]])
        radius = max(abs(np.linalg.eigvals(drift @ kick)))
        np.testing.assert_allclose(amplification(np.sqrt(a * b + 0j), LEAPFROG), radius, rtol=1e-7)
    for z in (0.7j, 1.2j, -0.3 + 0.2j):
        radius = max(abs(np.linalg.eigvals(np.array([[2 * z, 1], [1, 0]]))))
        np.testing.assert_allclose(amplification(z, TWO_STEP), radius, rtol=1e-7)


@pytest.mark.parametrize(
    ("method", "end"),
    [(EULER, 0.0), (MIDPOINT, 0.0), (HEUN, 0.0), (RK4, 2**1.5), (LEAPFROG, 2.0), (TWO_STEP, 1.0)],
    ids=["Euler", "midpoint", "Heun", "RK4", "leapfrog", "two-step"],
)
def test_imaginary_interval_ends_where_it_is_known_to(method: Solver | str, end: float):
    inside = 1j * np.linspace(0, 0.99 * end, 7)
    assert is_stable(inside, method).all()
    assert not is_stable(1.01j * end if end else 0.1j, method)


def test_unknown_method_is_told():
    with pytest.raises(ValueError, match="'verlet' is no method here"):
        amplification(1j, "verlet")
