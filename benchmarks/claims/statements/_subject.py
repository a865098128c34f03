"""A network of the ledger, trained, with images to look at it by."""

from typing import Any, NamedTuple

import jax
from flax import linen as nn

from benchmarks.claims import networks
from benchmarks.claims.claim import Places


class Subject(NamedTuple):
    """What the functions of `flaxarch.depth` take first."""

    model: nn.Module
    variables: Any
    images: jax.Array  # (N, H, W, 3), of the test set, as the network takes them
    labels: jax.Array  # (N,)


def subject(
    layers: int, seed: int, places: Places, scale: networks.Scale, num_images: int, **fields: Any
) -> Subject:
    """The CIFAR network of so many layers after the scale's training; fields as `Scale.resnet`'s."""
    model = scale.resnet(layers, **fields)
    variables = networks.trained(model, seed, places, scale).variables
    return Subject(model, variables, *networks.images(places, scale).test_set(num_images))
