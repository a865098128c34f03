"""How much of the gradient comes by paths of which length."""

from functools import partial
from math import comb
from typing import Any

import jax
import numpy as np

from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, claim
from benchmarks.claims.statements._lengths import lengths
from benchmarks.claims.statements._subject import subject
from flaxarch.depth import effective_lengths, fit_decay

NUM_IMAGES = 16


def _measure(seed: int, places: Places, *, scale: Scale, layers: int, num_paths: int) -> Measured:
    """Norms by length, the line through their logarithms, and the lengths that carry the gradient."""
    net = subject(layers, seed, places, scale, NUM_IMAGES)
    found = lengths(net, jax.random.key(seed), num_paths)
    n = len(found.single) - 1
    decay, shares = fit_decay(range(n + 1), found.single), effective_lengths(found.single)
    counts = np.array([comb(n, k) for k in range(n + 1)], float)
    return Measured(
        {
            "ρ": decay.rho,
            "R² of a line through ln norm": decay.r_squared,
            "mean effective length over N": float(shares @ np.arange(n + 1)) / n,
            "95 % of the gradient in lengths up to, over N": _quantile(shares, 0.95) / n,
            "share of lengths 3 to 20": float(shares[3:21].sum()),
            "mean effective length over N, exact": float(found.exact_shares @ np.arange(n + 1)) / n,
            "95 % of the gradient in lengths up to, over N, exact": _quantile(found.exact_shares, 0.95) / n,
            "distance of the sum over lengths from autodiff": found.error,
        },
        {
            "one path": list(found.single),
            "one path, times their number": list(counts * found.single),
            "all paths together": list(found.exact),
        },
    )


def _quantile(shares: np.ndarray, share: float) -> int:
    """The first length up to which there is so large a share."""
    return int(np.searchsorted(shares.cumsum(), share))


def _draw(axes: Any, kept: Any) -> None:
    """Norms over length, on a logarithmic axis."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for name in seeds[0]:
        norms = np.array([seed[name] for seed in seeds])
        axes.semilogy(np.exp(np.log(norms).mean(axis=0)), "o-", markersize=3, label=name)
        axes.fill_between(range(norms.shape[1]), norms.min(axis=0), norms.max(axis=0), alpha=0.2)


_claim = partial(
    claim,
    statement="The gradient that comes by a single path falls exponentially with the path's length, so that "
    "nearly all of the gradient comes by short paths.",
    source="Veit et al. 2016, Sec. 5 and Fig. 6",
    protocol="{num_paths:,} random paths of each length through the N blocks of ResNet-{layers}, "
    f"{NUM_IMAGES} test images: forward in full, backward by the path alone; norms at the image, over that "
    "of the whole gradient. The effective length weighs the mean norm by the number of paths, as the paper "
    "does. `exact`: the norm of the sum over all paths of a length, from one backward pass; there paths "
    "may cancel, and over all lengths it adds up to autodiff's gradient. The paper's blocks, of "
    "ResNet-110, have no ReLU behind their sum; these have one.",
    measure=_measure,
    x="length of path",
    y="norm over that of the whole gradient",
    draw=_draw,
)
_SUM = Check("distance of the sum over lengths from autodiff", high=1e-5)
CLAIM = _claim(
    SMALL,
    (
        Check("R² of a line through ln norm", low=0.95),
        Check("mean effective length over N", high=1 / 3),
        Check("95 % of the gradient in lengths up to, over N", high=0.5),
        _SUM,
    ),
    seeds=3,
    layers=56,
    num_paths=64,
    calibrated="all bounds. N/2 is the mean length of all paths; the paper's effective paths have 5 to 17 of "
    "54 blocks.",
)
FULL = _claim(
    FULL_SCALE,
    (
        Check("R² of a line through ln norm", low=0.98),
        Check("ρ", 0.15, 0.40),
        Check("mean effective length over N", high=1 / 3),
        Check("share of lengths 3 to 20", low=0.95),
        _SUM,
    ),
    seeds=5,
    layers=110,
    num_paths=1000,
    calibrated="all bounds, about the paper's 5 to 17 blocks of 54, which are 95 % where ρ = 0.25.",
)
