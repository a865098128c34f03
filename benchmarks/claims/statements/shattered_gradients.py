"""How fast the gradients at two inputs lose what they have in common, with depth."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.statements._dense import Plain, Residual
from flaxarch.analysis import gradient_correlation, log_slope, plain_correlation, residual_correlation

WIDTH, INITS, BATCH = 200, 1000, 64
PLAIN_DEPTHS = (1, 2, 3, 4, 5, 6, 24)
RESIDUAL_DEPTHS = (1, 2, 4, 8, 16, 24)


@partial(jax.jit, static_argnames="model")
def gradients(model: Any, key: jax.Array) -> jax.Array:
    """(INITS, 2, WIDTH): gradients of a logit at two unrelated inputs of a batch, for each initialisation."""

    def one(key: jax.Array) -> jax.Array:
        image_key, init_key = jax.random.split(key)
        images = jax.random.normal(image_key, (BATCH, 1, 1, WIDTH))
        variables = model.init(init_key, images, train=False)

        def logits(images: jax.Array) -> jax.Array:
            return model.apply(variables, images, train=True, mutable=["batch_stats"])[0][:, 0]

        # Of the first logit alone, and of the second: the batch's statistics tie each to all images.
        return jnp.stack([jax.grad(lambda x, i=i: logits(x)[i])(images)[i, 0, 0] for i in (0, 1)])

    return jax.lax.map(one, jax.random.split(key, INITS), batch_size=50)


def measure(seed: int, places: Places) -> Measured:
    """Correlations over 1,000 initialisations, and their slopes."""
    del places
    key = jax.random.key(seed)
    plain = [_correlation(Plain(depth), key) for depth in PLAIN_DEPTHS]
    residual = [_correlation(Residual(depth, batch_norm=True), key) for depth in RESIDUAL_DEPTHS]
    line = np.polyfit(np.log(RESIDUAL_DEPTHS[1:]), np.log(residual[1:]), 1)
    return Measured(
        {
            "log2 slope per layer, plain": log_slope(np.array(plain[:6])) / np.log(2),
            "correlation at 24 layers, plain": plain[-1],
            "log-log slope, residual with batch norm": float(line[0]),
            "correlation at 24 blocks, residual with batch norm": residual[-1],
        },
        {"plain": plain, "residual with batch norm": residual},
    )


def _correlation(model: Any, key: jax.Array) -> float:
    return float(gradient_correlation(gradients(model, key))[0, 1])


def draw(axes: Any, kept: Any) -> None:
    """Correlation over depth, with theory."""
    curves = [seed["curves"] for seed in kept["seeds"].values()]
    theory = {
        "plain": plain_correlation,
        "residual with batch norm": partial(residual_correlation, batch_norm=True),
    }
    for name, depths in (("plain", PLAIN_DEPTHS), ("residual with batch norm", RESIDUAL_DEPTHS)):
        (line,) = axes.loglog(depths, np.mean([curve[name] for curve in curves], axis=0), "o-", label=name)
        axes.loglog(depths, theory[name](depths), ":", color=line.get_color(), label=f"{name}: theory")
    axes.set_ylim(1e-3, 1.2)


CLAIM = Claim(
    "Gradients at two inputs have half as much in common with each layer of a plain network, but 1/√L "
    "after L blocks of a residual one with batch norm.",
    "Balduzzi et al. 2017 (shattered gradients), Sec. 3",
    f"Dense ReLU networks of {WIDTH} units, {INITS:,} initialisations for each seed; two of {BATCH} "
    "unrelated normal inputs, whose gradients' correlation over initialisations is measured.",
    measure,
    (
        Check("log2 slope per layer, plain", -1.2, -0.8),
        Check("correlation at 24 layers, plain", high=0.1),
        Check("log-log slope, residual with batch norm", -0.65, -0.35),
    ),
    seeds=3,
    calibrated="all margins.",
    x="layers, or blocks",
    y="correlation of gradients",
    draw=draw,
)
