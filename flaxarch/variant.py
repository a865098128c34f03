"""A row of the registry: how to build one published network, and what was published about it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flaxarch.layers import Network

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# As Keras's `load_img` brings a picture to the input size: the whole of it, by the nearest pixels.
KERAS_PICTURES: dict[str, Any] = {"resize": None, "interpolation": "nearest"}

# What Caffe's networks expect, and Keras's "caffe" mode gives: BGR from 0 to 255, less the mean.
CAFFE_IMAGES: dict[str, Any] = {
    "mean": tuple(x / 255 for x in (103.939, 116.779, 123.68)),
    "std": (1 / 255,) * 3,
    "channels": "BGR",
    **KERAS_PICTURES,
}
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # over all training pixels


class Top1(NamedTuple):
    """What share of ImageNet's 50,000 validation images a training of a network got right."""

    percent: float  # the likeliest class, of one central crop of the row's input size
    source: str  # who trained, or published it


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
    resize: int | None = (
        256  # pixels of a picture's shorter side, ahead of the crop; None: stretched, no crop
    )
    interpolation: str = "bilinear"  # or "bicubic", "nearest"
    # published accuracies, the oldest training first; none added to ImageNet's 1.28 million training images
    top1: tuple[Top1, ...] = ()
