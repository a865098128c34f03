"""Where a solver is stable: Hairer & Wanner 1996, Solving Ordinary Differential Equations II, Sec. IV.2.

On x' = lambda x a step of length h multiplies x by a function of z = h lambda alone. The region of stability
is where that is not larger than 1. Euler's is the disc |1 + z| <= 1, which has no imaginary z but 0: what
only turns, as antisymmetric and Hamiltonian fields do, it lets grow. RK4 takes imaginary z up to 2.83. The
leapfrog's region is the imaginary interval from -2i to 2i, of Stoermer and Verlet's staggered steps for
y' = a z, z' = b y, and of the two-step method x_{n+1} = x_{n-1} + 2 h f(x_n) that from -i to i.
"""

import numpy as np
from numpy.typing import ArrayLike

from flaxarch.ode.solvers import EULER, HEUN, MIDPOINT, RK4, Solver

# For what steps in turn, or looks back two states: the trace of what a step does to a mode is 2 + z^2 in
# the one case, 2 z with determinant -1 in the other.
LEAPFROG, TWO_STEP = "leapfrog", "two-step"
Method = Solver | str
METHODS: dict[str, Method] = {
    "Euler": EULER,
    "midpoint": MIDPOINT,
    "Heun": HEUN,
    "RK4": RK4,
    "leapfrog": LEAPFROG,
}


def amplification(z: ArrayLike, method: Method = EULER) -> np.ndarray:
    """|R(z)|: factor by which a step makes a mode of eigenvalue lambda grow, of z = h lambda, any shape.

    Of a Runge-Kutta method R(z) = 1 + z b^T (I - z A)^-1 1. Of the leapfrog's two modes, the larger factor.
    """
    z = np.asarray(z, complex)
    if isinstance(method, Solver):
        return abs(_stability_function(z, method))
    if method not in (LEAPFROG, TWO_STEP):
        raise ValueError(f"{method!r} is no method here: give a Solver, {LEAPFROG!r} or {TWO_STEP!r}")
    half, determinant = (1 + z * z / 2, 1) if method == LEAPFROG else (z, -1)
    root = np.sqrt(half * half - determinant)  # of R^2 - 2 half R + determinant = 0
    return np.maximum(abs(half + root), abs(half - root))


def _stability_function(z: np.ndarray, solver: Solver) -> np.ndarray:
    slopes: list[np.ndarray] = []

    def moved(weights: tuple[float, ...]) -> np.ndarray:
        return np.ones_like(z) + sum(w * k for w, k in zip(weights, slopes, strict=True))

    for row in solver.a:
        slopes.append(z * moved(row))
    return moved(solver.b)


def is_stable(z: ArrayLike, method: Method = EULER, *, tolerance: float = 1e-6) -> np.ndarray:
    """Whether z = h lambda lies in the method's region: |R(z)| <= 1 + tolerance."""
    return amplification(z, method) <= 1 + tolerance
