"""What a claim is, and when a run bears it out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Places(NamedTuple):
    """Where the files of real data and weights lie; None: not here."""

    cifar10: Path | None = None
    fashion_mnist: Path | None = None
    weights: Path | None = None
    cache: Path | None = None  # for what is trained on the way; None: the user's cache folder


class Measured(NamedTuple):
    """What one seed gave."""

    values: Mapping[str, float]  # by name, for the checks
    curves: Mapping[str, Sequence[float]] = {}  # by name, for the plot: y over `Claim.x`


@dataclass(frozen=True)
class Check:
    """An inequality: the 95 % interval of a quantity's mean over seeds lies within [low, high].

    With `minus` the quantity is a difference, paired over seeds. "No difference" is an interval inside a
    margin, never a test that found none. A quantity that is the same for every seed has no interval.
    """

    quantity: str
    low: float = -math.inf
    high: float = math.inf
    minus: str | None = None

    def __str__(self) -> str:
        name = self.quantity if self.minus is None else f"{self.quantity} − {self.minus}"
        if self.high - self.low < 1e-9 * abs(self.high):
            return f"{name} = {number(self.high)}"
        if math.isinf(self.low):
            return f"{name} ≤ {number(self.high)}"
        if math.isinf(self.high):
            return f"{name} ≥ {number(self.low)}"
        return f"{number(self.low)} ≤ {name} ≤ {number(self.high)}"

    def verdict(self, seeds: Sequence[Mapping[str, float]]) -> "Verdict":
        """Whether the values of all seeds bear the inequality out."""
        values = [seed[self.quantity] - (seed[self.minus] if self.minus else 0.0) for seed in seeds]
        mean, half = float(np.mean(values)), 0.0
        if len(values) > 1:
            quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
            half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        low, high = mean - half, mean + half  # not-a-number is in no bounds
        return Verdict(str(self), mean, low, high, bool(self.low <= low and high <= self.high))


def number(x: float) -> str:
    """Whole numbers in full, others to four digits."""
    return f"{x:,.0f}" if float(x).is_integer() and abs(x) < 1e15 else f"{x:.4g}"


class Verdict(NamedTuple):
    """How a check came out: the mean over seeds and its 95 % interval, Student's t."""

    words: str
    mean: float
    low: float
    high: float
    passed: bool


@dataclass(frozen=True)
class Claim:
    """A published statement and its test.

    `calibrated` says which bounds of the checks are not the source's, but first guesses that were fixed
    before the run that is kept.
    """

    statement: str  # a sentence
    source: str  # paper and section
    protocol: str  # what is done here, and how that differs from the source
    measure: Callable[[int, Places], Measured]  # of a seed; deterministic claims have one, 0
    checks: tuple[Check, ...]
    seeds: int = 1
    tier: Literal["C", "G"] = "C"  # two CPU cores and minutes, or a GPU and full CIFAR-10
    needs: tuple[str, ...] = ()  # fields of Places
    calibrated: str = ""
    x: str = ""  # what the curves run over
    y: str = ""
    first_x: int = 1
    draw: Callable[[Any, Mapping[str, Any]], None] | None = (
        None  # onto axes, from the kept run; None: all curves
    )
