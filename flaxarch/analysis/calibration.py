"""How far a network's confidence is its accuracy: Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class Reliability(NamedTuple):
    """Images by confidence, the largest probability of the softmax, in bins of equal width (Sec. 2)."""

    share: np.ndarray  # (bins,) of the images; they add up to 1
    confidence: np.ndarray  # (bins,) mean; not a number where a bin is empty
    accuracy: np.ndarray  # (bins,), from 0 to 1; likewise


def reliability(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> Reliability:
    """What a reliability diagram shows, from logits (N, num_classes) and labels (N,), integers.

    Bin m of M has the images of confidence in ((m - 1) / M, m / M].
    """
    scores, right = np.asarray(logits, np.float64), np.asarray(labels)
    if scores.ndim != 2 or not len(scores) or right.shape != scores.shape[:1]:
        raise ValueError(f"logits are (N, num_classes) and labels (N,), not {scores.shape} and {right.shape}")
    if bins < 1:
        raise ValueError(f"confidence falls into 1 bin or more, not {bins}")
    if not np.isfinite(scores).all():
        raise ValueError("logits are not finite: they say nothing of confidence")
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    confidence = 1 / exps.sum(axis=1)  # the largest exponential is 1
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)

    def means(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(places, values, minlength=bins)
        return np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)

    return Reliability(counts / len(scores), means(confidence), means(scores.argmax(axis=1) == right))


def expected_calibration_error(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean distance of accuracy and confidence over bins of confidence, weighted by their images: 0 to 1.

    Equation 3, with the paper's 15 bins: 0 where, of all predictions made with confidence c, a share of c is
    right. Of few images it is too high, by chance. Arguments as `reliability`'s.
    """
    found = reliability(logits, labels, bins)
    return float(np.nansum(found.share * np.abs(found.accuracy - found.confidence)))
