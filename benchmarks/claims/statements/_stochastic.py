"""A ResNet trained with stochastic depth, and the same trained at constant depth."""

from typing import Any, NamedTuple

from flax import linen as nn

from benchmarks.claims.claim import Places
from benchmarks.claims.networks import Scale, trained

LAST = 0.5  # chance that the last block is kept


class Pair(NamedTuple):
    """Networks and variables."""

    model: nn.Module  # without stochastic depth: the gates are given
    stochastic: Any
    constant: Any


def pair(depth: int, seed: int, places: Places, scale: Scale) -> Pair:
    """Both, trained."""
    model = scale.resnet(depth)
    dropped = scale.resnet(depth, survival_prob=LAST)
    return Pair(
        model,
        trained(dropped, seed, places, scale).variables,
        trained(model, seed, places, scale).variables,
    )
