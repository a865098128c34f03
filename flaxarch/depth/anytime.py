"""Leaving a network by the first exit that is sure of its answer.

An exit is sure where the entropy of its softmax is at most a threshold: Teerapittayanon et al. 2016,
https://arxiv.org/abs/1709.01686. The threshold is chosen on validation data:

>>> macs = depth.exit_macs(model, (32, 32, 3))
>>> logits = depth.exit_logits(model, variables, images)
>>> threshold = depth.choose_threshold(logits, labels, macs, accuracy=0.9)
>>> predict = depth.anytime_predictor(model, variables, (32, 32, 3))
>>> answer, exit = predict(image, threshold)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.typing import ArrayLike

from flaxarch.depth.segments import program, segments
from flaxarch.layers import Network


@jax.jit
def entropy(logits: jax.Array) -> jax.Array:
    """Of the softmax, in nats, from 0 to ln(num_classes): (..., num_classes) -> (...,)."""
    log_probs = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_probs) * log_probs).sum(axis=-1)


def leave(logits: ArrayLike, threshold: ArrayLike) -> np.ndarray:
    """The exit, from 0, that each image leaves by, (N,): the first that is sure, or the last.

    Args:
      logits: of all exits (num_exits, N, num_classes), as `exit_logits` gives them.
      threshold: the most entropy, in nats, to leave with; one, or one for each exit but the last. With -inf
        no image leaves early.
    """
    early = np.asarray(entropy(jnp.asarray(logits)[:-1]))
    sure = early <= _per_exit(threshold, len(early) + 1)[:, None]
    return np.where(sure.any(axis=0), sure.argmax(axis=0), len(sure))


def _per_exit(threshold: ArrayLike, num_exits: int) -> np.ndarray:
    """(num_exits - 1,)."""
    given = np.asarray(threshold, np.float64)
    if given.shape not in ((), (num_exits - 1,)):
        raise ValueError(
            f"of {num_exits} exits all but the last have a threshold: give one or {num_exits - 1}"
        )
    return np.broadcast_to(given, num_exits - 1)


class Tradeoff(NamedTuple):
    """What thresholds, one for all exits, bring on some images: a row for each that changes anything."""

    threshold: np.ndarray  # (num_rows,), nats, rising from -inf, with which no image leaves early
    accuracy: np.ndarray  # (num_rows,), from 0 to 1
    mean_macs: np.ndarray  # (num_rows,), falling


def tradeoff(logits: ArrayLike, labels: ArrayLike, macs: ArrayLike) -> Tradeoff:
    """Accuracy and mean cost under all thresholds, exactly.

    Row i stands for thresholds from its own up to that of row i + 1.

    Args:
      logits: of all exits (num_exits, N, num_classes), as `exit_logits` gives them.
      labels: (N,) integers.
      macs: (num_exits,), cost of leaving by each exit, as `exit_macs` gives them.
    """
    logits, labels, macs = jnp.asarray(logits), np.asarray(labels), np.asarray(macs)
    if logits.ndim != 3 or labels.shape != logits.shape[1:2] or macs.shape != logits.shape[:1]:
        raise ValueError(
            "logits are (num_exits, N, num_classes), labels (N,) and macs (num_exits,), not "
            f"{logits.shape}, {labels.shape} and {macs.shape}"
        )
    right = np.asarray(logits.argmax(axis=-1)) == labels
    # An image leaves by the first exit up to which the least entropy is within the threshold. So what it has
    # of exit k is what it has of the last, and for each exit from k on the difference to the one behind.
    lowest = np.minimum.accumulate(np.asarray(entropy(logits[:-1])), axis=0).ravel()
    order = np.argsort(lowest, kind="stable")
    hits = right[-1].sum() + np.cumsum((right[:-1].astype(int) - right[1:]).ravel()[order])
    cost = len(labels) * macs[-1] + np.cumsum(np.repeat(macs[:-1] - macs[1:], len(labels))[order])
    last = np.append(np.diff(lowest[order]) > 0, True)  # of equal thresholds
    return Tradeoff(
        np.concatenate([[-np.inf], lowest[order][last]]),
        np.concatenate([right[-1:].sum(axis=1), hits[last]]) / len(labels),
        np.concatenate([[len(labels) * macs[-1]], cost[last]]) / len(labels),
    )


def choose_threshold(
    logits: ArrayLike,
    labels: ArrayLike,
    macs: ArrayLike,
    *,
    accuracy: float | None = None,
    mean_macs: float | None = None,
) -> float:
    """The threshold, in nats, that is cheapest at a wanted accuracy, or most accurate at a wanted mean cost.

    It stands halfway to the next one that would change anything. Raises ValueError where no threshold brings
    what is wanted. Logits, labels and costs, of validation images, are as in `tradeoff`.
    """
    if (accuracy is None) == (mean_macs is None):
        raise ValueError("a threshold is chosen for an accuracy or for a mean cost: give one of the two")
    found = tradeoff(logits, labels, macs)
    if accuracy is not None:
        (fits,) = np.nonzero(found.accuracy >= accuracy)
        if not len(fits):
            raise ValueError(
                f"no threshold reaches an accuracy of {accuracy:g}: the best of these images is "
                f"{found.accuracy.max():g}"
            )
        best = fits[-1]  # costs fall
    else:
        (fits,) = np.nonzero(found.mean_macs <= mean_macs)
        if not len(fits):
            raise ValueError(
                f"no image costs less than the first exit's {found.mean_macs.min():,.0f} MACs, and "
                f"{mean_macs:,.0f} are wanted"
            )
        accuracies = found.accuracy[fits]
        best = fits[np.flatnonzero(accuracies == accuracies.max())[-1]]
    return float(np.mean(np.append(found.threshold, np.inf)[best : best + 2]))


class Prediction(NamedTuple):
    """The answer for one image."""

    logits: jax.Array  # (num_classes,), of the exit that it left by
    exit: int  # from 0


def anytime_predictor(
    model: Network, variables: Any, input_shape: Sequence[int]
) -> Callable[[jax.Array, ArrayLike], Prediction]:
    """Returns predict(image, threshold) -> Prediction, which computes nothing behind the exit that is sure.

    The network is cut at its exits. Each part is compiled when it is first needed, and run when the exit
    before it was not sure, from what the parts before it have left.

    Args:
      model: a network with auxiliary heads, or `WithExits`.
      variables: its `{"params": ..., "batch_stats": ...}`.
      input_shape: (H, W, C) of an image; `threshold` is as in `leave`.
    """
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    closed, found = segments(model, variables, images)
    inputs = closed.jaxpr.invars
    known = dict(zip(inputs, map(jnp.asarray, jax.tree.leaves(variables)), strict=False))
    parts = []
    for segment in found:
        part = program(closed, segment.reads, segment.eqns, [segment.logits, *segment.leaves])
        parts.append((segment, jax.jit(_with_entropy(part))))

    def predict(image: jax.Array, threshold: ArrayLike) -> Prediction:
        if jnp.shape(image) != tuple(input_shape):
            raise ValueError(f"an image is {tuple(input_shape)}, not {jnp.shape(image)}")
        limits = _per_exit(threshold, len(parts))
        values = {**known, inputs[-1]: jnp.asarray(image, jnp.float32)[None]}
        k = 0
        while True:
            segment, run = parts[k]
            logits, doubt, *left = run(*(values[v] for v in segment.reads))
            if k == len(limits) or float(doubt) <= limits[k]:
                return Prediction(logits[0], k)
            values |= dict(zip(segment.leaves, left, strict=True))
            k += 1

    return predict


def _with_entropy(closed: ClosedJaxpr) -> Callable[..., list[jax.Array]]:
    def run(*values: jax.Array) -> list[jax.Array]:
        logits, *left = jaxpr_as_fun(closed)(*values)
        return [logits, entropy(logits)[0], *left]

    return run
