"""One slope of a network tells which lengths of paths carry its gradient."""

from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.claims.claim import Check, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, claim
from benchmarks.claims.statements._lengths import lengths
from benchmarks.claims.statements._subject import subject
from flaxarch.depth import effective_length, effective_lengths, fit_decay

NUM_IMAGES, MARGIN = 16, 0.15


def _measure(seed: int, places: Places, *, scale: Scale, blocks: tuple[int, ...], num_paths: int) -> Measured:
    """Mean lengths, measured and by the law, of networks of so many blocks."""
    values: dict[str, float] = {}
    curves: dict[str, list[float]] = {"measured": [], "law": [], "exact": []}
    for n in blocks:
        net = subject(2 * n + 2, seed, places, scale, NUM_IMAGES)
        found = lengths(net, jax.random.key(seed), num_paths)
        rho, r_squared = fit_decay(range(n + 1), found.single)
        measured = float(effective_lengths(found.single) @ np.arange(n + 1))
        exact, law = float(found.exact_shares @ np.arange(n + 1)), effective_length(n, rho)
        values |= {
            f"ρ, N = {n}": rho,
            f"R², N = {n}": r_squared,
            f"mean length, N = {n}": measured,
            f"mean length over law, N = {n}": measured / law,
            f"exact mean length over law, N = {n}": exact / law,
        }
        for name, length in (("measured", measured), ("law", law), ("exact", exact)):
            curves[name].append(length)
    return Measured(values, {"N": list(blocks), **curves})


def _draw(axes: Any, kept: Any) -> None:
    """Mean lengths over the number of blocks."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    n = np.array(seeds[0]["N"])
    for name, style in (("measured", "o-"), ("exact", "s-"), ("law", "k:")):
        found = np.array([seed[name] for seed in seeds])
        label = "law, Nρ / (1 + ρ)" if name == "law" else name
        axes.plot(n, found.mean(axis=0), style, label=label)
        if name != "law":
            axes.fill_between(n, found.min(axis=0), found.max(axis=0), alpha=0.2)
    axes.plot(n, n / 2, color="grey", linewidth=0.8, label="mean of all paths, N/2")


def _checks(blocks: tuple[int, ...]) -> tuple[Check, ...]:
    return tuple(Check(f"mean length over law, N = {n}", 1 - MARGIN, 1 + MARGIN) for n in blocks)


_claim = partial(
    claim,
    statement="If each block of a path multiplies its gradient by ρ, the paths that carry the gradient have "
    "N ρ / (1 + ρ) blocks on average: a network's slope ρ, which depth changes, tells their length.",
    source="Derived from Veit et al. 2016, Sec. 5: C(N, k) ρ^k, normalised, is a binomial distribution with "
    "chance ρ / (1 + ρ)",
    protocol="ResNets of N = {blocks} blocks. ρ is the slope of a line through the logarithm of a single "
    f"path's mean norm, over all lengths, of {{num_paths:,}} random paths each, on {NUM_IMAGES} test images. "
    "The measured mean length weighs those norms by the number of paths; `exact`, which is not tested, takes "
    "the norm of the sum over all paths of a length, in which they may cancel.",
    measure=_measure,
    calibrated="the margin of 15 %.",
    x="blocks N",
    y="mean length of the paths that carry the gradient",
    draw=_draw,
)
CLAIM = _claim(SMALL, _checks((9, 15, 27)), seeds=3, blocks=(9, 15, 27), num_paths=64)
FULL = _claim(FULL_SCALE, _checks((9, 15, 27, 54)), seeds=5, blocks=(9, 15, 27, 54), num_paths=1000)
