"""A row of the registry: how to build one published network, and what was published about it."""

from collections.abc import Callable
from typing import NamedTuple

from flaxarch.layers import Network

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Variant(NamedTuple):
    """One network that a paper or a library published under one name.

    Counts and costs are numbers from outside (a paper, a library), never from running the code here: the
    tests hold the code against them.
    """

    model: Callable[..., Network]  # takes num_classes and dtype
    source: str  # paper, or library and builder, that the numbers are of
    num_params: int  # at num_classes classes
    num_batch_stats: int  # elements of the running means and variances
    macs: int  # multiply-accumulates of convolutions and dense layers, for one image of input_shape
    input_shape: tuple[int, int, int] = (224, 224, 3)  # height, width, channels
    num_classes: int = 1000
    mean: tuple[float, ...] = IMAGENET_MEAN  # per channel, of pixels in [0, 1], in the order of `channels`
    std: tuple[float, ...] = IMAGENET_STD
    channels: str = "RGB"
