"""Solvers on a stage have their orders where theta(t) is smooth."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.statements._ode import draw_by_step
from flaxarch.depth import EULER, HEUN, MIDPOINT, RK4, TwoStepMidpoint, legendre
from flaxarch.models.ode_fields import Bias, Free
from flaxarch.models.ode_resnet import OdeResNet

METHODS: dict[str, tuple[Any, int]] = {
    "Euler": (EULER, 1),
    "midpoint": (MIDPOINT, 2),
    "Heun": (HEUN, 2),
    "two-step midpoint": (TwoStepMidpoint(), 2),
    "RK4": (RK4, 4),
}
STEPS = (1, 2, 4, 8, 16, 32, 64)


def measure(seed: int, places: Places) -> Measured:
    """Errors of the logits by the number of steps, and the order between the last two."""
    del places
    model = OdeResNet(
        (4,),
        (8, 8),
        field=partial(Free, act=jnp.tanh),
        block_norm=Bias,
        basis=legendre,
        num_coefficients=3,
        times=(1.0,),
        num_classes=10,
    )
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        images = jnp.asarray(rng.normal(size=(4, 8, 8, 3)))
        variables = jax.jit(partial(model.init, train=False))(jax.random.key(seed), images)
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables)

        def logits(method: Any, num_steps: int) -> np.ndarray:
            other = model.clone(method=method, stage_sizes=(num_steps,), dtype=jnp.float64)
            return np.asarray(jax.jit(partial(other.apply, train=False))(variables, images))

        exact = logits(RK4, 512)
        scale = np.linalg.norm(exact)
        curves = {
            name: [float(np.linalg.norm(logits(method, n) - exact) / scale) for n in STEPS]
            for name, (method, _) in METHODS.items()
        }
    return Measured({name: float(np.log2(curve[-2] / curve[-1])) for name, curve in curves.items()}, curves)


CLAIM = Claim(
    "On a stage whose parameters are smooth in time, solvers converge with their orders.",
    "Queiruga et al. 2020; orders: Hairer, Norsett & Wanner 1993, Sec. II.1 and III.2",
    "A stage of two 3x3 convolutions, tanh and biases, 8 features on maps of 8x8, T = 1, theta(t) a "
    "polynomial of degree 2 with drawn coefficients, in float64. The order is that between 32 and 64 steps, "
    "for the error of the logits against RK4 with 512.",
    measure,
    tuple(Check(name, order - 0.15, order + 0.15) for name, (_, order) in METHODS.items()),
    seeds=3,
    x="number of steps",
    y="error of the logits, relative",
    draw=draw_by_step,
)
