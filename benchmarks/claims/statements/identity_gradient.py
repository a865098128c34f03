"""What of the gradient goes through 1001 layers by shortcuts alone."""

from collections.abc import Callable
from functools import partial
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
    values, curves = {}, {}
    for name, model in FORMS.items():
        by_shortcuts, whole = (np.asarray(norms) for norms in _norms(model, jax.random.key(seed)))
        curves[name] = list(by_shortcuts / by_shortcuts[-1])
        values[f"by shortcuts alone, {name}"] = curves[name][0]
        values[f"whole gradient, {name}"] = whole[0] / whole[-1]
    return Measured(values, curves)


@partial(jax.jit, static_argnames="model")
def _norms(model: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(units of the last stage,) twice: with nothing going back through branches, and the gradient's own."""
    image_key, init_key = jax.random.split(key)
    images = jax.random.normal(image_key, (BATCH, SIZE, SIZE, 3))
    variables = model.init(init_key, images, train=False)

    def loss(added: jax.Array, through: Callable[[jax.Array], jax.Array]) -> jax.Array:
        sums = iter(range(sum(model.stage_sizes)))

        def with_added(x: jax.Array, y: jax.Array, gate: jax.Array | None) -> jax.Array:
            del gate
            place = next(sums) - 2 * PER_STAGE
            return x + through(y) + (added[place] if place >= 0 else 0)

        with replace_residual(with_added):
            logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    nothing = jnp.zeros((PER_STAGE, BATCH, SIZE // 4, SIZE // 4, model.widths[-1]))
    found = (jax.grad(loss)(nothing, through) for through in (jax.lax.stop_gradient, lambda y: y))
    by_shortcuts, whole = (jnp.linalg.norm(g.reshape(PER_STAGE, -1), axis=1) for g in found)
    return by_shortcuts, whole


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
    "shortcuts alone, and of all of it, over that at the last sum. The same with units of 2015, whose ReLU "
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
