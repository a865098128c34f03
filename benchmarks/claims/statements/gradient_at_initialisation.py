"""How gradients and activations grow with depth before the first update: slopes, each with its theory."""

import math
from typing import Any

import jax
import numpy as np

import flaxarch
from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.statements._dense import Plain, Residual
from flaxarch.analysis import PLAIN_BATCH_NORM_SLOPE, log_slope, plain_slope, signal_propagation
from flaxarch.depth import Chain

DEPTH, WIDTH, BATCH = 40, 256, 512
GAINS = (0.7, 1.0, 1.4)


def measure(seed: int, places: Places) -> Measured:
    """Slopes over all layers of one initialisation, on normal inputs with random labels."""
    del places
    image_key, label_key, key = jax.random.split(jax.random.key(seed), 3)
    images = jax.random.normal(image_key, (BATCH, 1, 1, WIDTH))
    labels = jax.random.randint(label_key, (BATCH,), 0, 10)

    def propagate(model: Any) -> Any:
        params, batch_stats = jax.jit(flaxarch.functional(model).init)(key, images)
        variables = {"params": params, "batch_stats": batch_stats}
        return signal_propagation(Chain(model, (1, 1, WIDTH), train=True), variables, images, labels)

    plain = {f"gain {gain}": propagate(Plain(DEPTH, gain)) for gain in GAINS}
    plain["batch norm"] = propagate(Plain(DEPTH, batch_norm=True))
    squared = {name: np.asarray(found.gradient_norm, np.float64)[::-1] ** 2 for name, found in plain.items()}
    residual = {
        norm: np.asarray(propagate(Residual(DEPTH, norm)).variance, np.float64) for norm in (False, True)
    }
    values = {f"slope, {name}": log_slope(curve) for name, curve in squared.items()}
    values["slope of log2 variance, residual"] = log_slope(residual[False]) / math.log(2)
    values["R² of a line through the variance, residual with batch norm"] = (
        float(np.corrcoef(np.arange(DEPTH + 1), residual[True])[0, 1]) ** 2
    )
    return Measured(values, {name: np.log(curve / curve[0]) for name, curve in squared.items()})


def _near(gain: float) -> Check:
    theory = plain_slope(gain)
    margin = max(0.05, abs(theory) / 10)
    return Check(f"slope, gain {gain}", theory - margin, theory + margin)


CLAIM = Claim(
    "At initialisation a plain network's gradient grows by its gain, with batch norm by √(π/(π − 1)) a layer "
    "whatever the gain; a residual network's variance grows by 2 a block, with batch norm by 1.",
    "He et al. 2015b, Sec. 2.2; Yang et al. 2019 (a mean field theory of batch norm); De & Smith 2020, "
    "Sec. 2",
    f"Dense ReLU networks, {DEPTH} layers or blocks of {WIDTH} units, {BATCH} normal inputs. Slopes are of "
    "the natural logarithm of the squared gradient norm, from the loss back; theory says 2 ln(gain) and "
    f"{PLAIN_BATCH_NORM_SLOPE:.3f}.",
    measure,
    (
        *(_near(gain) for gain in GAINS),
        Check("slope, batch norm", 0.30, 0.45),
        Check("slope of log2 variance, residual", 0.9, 1.1),
        Check("R² of a line through the variance, residual with batch norm", low=0.98),
    ),
    seeds=5,
    calibrated="the margins: a tenth of the theory's slope, 0.05 where that is 0, and 0.30 to 0.45 for the "
    "limit of wide layers and large batches.",
    x="layers from the loss back",
    y="ln of squared gradient norm",
    first_x=0,
)
