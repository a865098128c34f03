"""What of the gradient goes through 1001 layers by shortcuts alone."""

from functools import partial
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxarch
from benchmarks.claims.claim import Check, Claim, Measured, Places
from flaxarch.models import preact_unit as unit
from flaxarch.residual import replace_residual

NETWORK: Any = flaxarch.create("preact_resnet1001").clone(widths=(16, 32, 64))
FORMS = {
    "pre-activation": NETWORK,
    "units of 2015": NETWORK.clone(activation=unit.ORIGINAL),
    "halves": NETWORK.clone(shortcut=partial(unit.constant_scaling, branch=1.0)),
}
PER_STAGE = NETWORK.stage_sizes[-1]
BATCH, SIZE = 8, 16


def measure(seed: int, places: Places) -> Measured:
    """Norms of the gradient at the sums of the last stage, over that at its last one."""
    del places
    image_key, init_key = jax.random.split(jax.random.key(seed))
    images = jax.random.normal(image_key, (BATCH, SIZE, SIZE, 3))
    values, curves = {}, {}
    for name, model in FORMS.items():
        variables = model.init(init_key, images, train=False)  # not compiled, as a whole it takes long to
        norms = np.asarray(_norms(model, variables, images), np.float64)
        curves[name] = list(norms / norms[-1])
        values[f"by shortcuts alone, {name}"] = curves[name][0]
    return Measured(values, curves)


def _norms(model: Any, variables: Any, images: jax.Array) -> jax.Array:
    """(units of the last stage,): of the loss's gradient at each sum, with nothing going through branches."""

    def loss(added: jax.Array) -> jax.Array:
        places = count(-2 * PER_STAGE)  # in the last stage; below zero: ahead of it

        def with_added(x: jax.Array, y: jax.Array, gate: jax.Array | None) -> jax.Array:
            del gate
            place = next(places)
            return x + jax.lax.stop_gradient(y) + (added[place] if place >= 0 else 0)

        with replace_residual(with_added):
            logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    nothing = jnp.zeros((PER_STAGE, BATCH, SIZE // 4, SIZE // 4, model.widths[-1]))
    return jnp.linalg.norm(jax.grad(loss)(nothing).reshape(PER_STAGE, -1), axis=1)


def draw(axes: Any, kept: Any) -> None:
    """By shortcuts alone, over the stage."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for name in FORMS:
        axes.semilogy(np.mean([curves[name] for curves in seeds], axis=0), label=name)


CLAIM = Claim(
    "In a network of 1001 layers whose shortcuts are identities with nothing behind the sum, the gradient at "
    "any unit has that of the last unit in it, whole; with shortcuts of one half, next to nothing of it.",
    "He et al. 2016b, Sec. 2, equations 5 to 8",
    f"PreAct-ResNet-1001 with features 16, 32 and 64 at initialisation, {BATCH} images of normal pixels, "
    f"{SIZE}x{SIZE}. At each of the last stage's {PER_STAGE} sums: the norm of the gradient that came by "
    "shortcuts alone, over that at the last sum. The same with units of 2015, whose ReLU "
    "behind the sum all paths go through, and with shortcuts times one half.",
    measure,
    (
        Check("by shortcuts alone, pre-activation", 1 - 1e-4, 1 + 1e-4),
        Check("by shortcuts alone, units of 2015", high=0.9),
        Check("by shortcuts alone, halves", high=1e-30),
    ),
    seeds=3,
    calibrated="the bounds of the second and the third.",
    x="unit of the last stage",
    y="norm of the gradient by shortcuts",
    draw=draw,
)
