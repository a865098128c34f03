"""The logits that label smoothing asks for, in closed form."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims.claim import Check, Claim, Measured, Places
from train.losses import cross_entropy_sum

CLASSES, STEPS = 10, 8000
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # of the target, spread over all classes


def measure(seed: int, places: Places) -> Measured:
    """Gaps by descent, beside the closed form."""
    del seed, places
    gaps = [_gap(share) for share in SHARES]
    theory = [_closed_form(share) for share in SHARES]
    ratios = [gap / closed for gap, closed in zip(gaps, theory, strict=True)]
    return Measured(
        {
            "gap at ε = 0.1": gaps[SHARES.index(0.1)],
            "gap over closed form, smallest": min(ratios),
            "gap over closed form, largest": max(ratios),
        },
        {"descent": gaps, "closed form": theory},
    )


def _gap(share: float) -> float:
    """How far the label's logit is above the mean of the others, where the trainer's loss is least."""
    loss = partial(cross_entropy_sum, labels=jnp.zeros(1, int), mask=jnp.ones(1), label_smoothing=share)

    @jax.jit
    def descend(logits: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, STEPS, lambda _, x: x - 3.0 * jax.grad(loss)(x), logits)

    (found,) = np.asarray(descend(jnp.zeros((1, CLASSES))), np.float64)
    return float(found[0] - found[1:].mean())


def _closed_form(share: float) -> float:
    return math.log(1 + CLASSES * (1 - share) / share)


def _draw(axes: Any, kept: Any) -> None:
    """Gap over the share, and the closed form."""
    curves = kept["seeds"]["0"]["curves"]
    shares = np.linspace(SHARES[0], SHARES[-1], 200)
    axes.plot(shares, list(map(_closed_form, shares)), label="ln(1 + K(1 − ε)/ε)")
    axes.plot(SHARES, curves["descent"], "o", label="descent")


CLAIM = Claim(
    "Label smoothing asks for a logit that is ln(1 + K(1 − ε)/ε) above the others, 4.51 for ten classes and "
    "ε = 0.1, and for no more.",
    "Szegedy et al. 2016, Sec. 7; He et al. 2019 (bag of tricks), Sec. 5.2, where ε is spread over the other "
    "classes only, which makes it ln((K − 1)(1 − ε)/ε)",
    f"The trainer's loss of one image of {CLASSES} classes, minimised over free logits by {STEPS:,} steps of "
    f"descent at rate 3, for ε from {SHARES[0]} to {SHARES[-1]}. Without smoothing there is no minimum: the "
    "gap grows without bound.",
    measure,
    (
        Check("gap at ε = 0.1", 4.51, 4.512),
        Check("gap over closed form, smallest", low=1 - 1e-3),
        Check("gap over closed form, largest", high=1 + 1e-3),
    ),
    calibrated="the margin of a thousandth, for descent in float32.",
    x="share of the target over all classes, ε",
    y="gap between logits",
    draw=_draw,
)
