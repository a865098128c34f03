"""VGGs in torch that no library has, after the papers: what ours are held against."""

from typing import Any

import torchvision  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


def vgg11_lrn() -> Any:
    """Simonyan & Zisserman 2015, A-LRN: torch divides alpha by the size, the AlexNet paper does not."""
    network = torchvision.models.vgg11()
    network.features[1] = nn.Sequential(nn.ReLU(), nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2))
    return network


def vgg16_c() -> Any:
    """Simonyan & Zisserman 2015, C: the last convolution of the last three stages is 1x1."""
    network = torchvision.models.vgg16()
    for i in (14, 21, 28):
        network.features[i] = nn.Conv2d(network.features[i].in_channels, network.features[i].out_channels, 1)
    return network


def narrow_vgg11() -> Any:
    """torchvision's VGG, with an eighth of the features and 32 in its dense layers."""
    features = torchvision.models.vgg.make_layers([8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"])
    network = torchvision.models.VGG(features)
    for i, (c_in, c_out) in {0: (64 * 7 * 7, 32), 3: (32, 32), 6: (32, 1000)}.items():
        network.classifier[i] = nn.Linear(c_in, c_out)
    return network


class Vgg16Cifar(nn.Module):
    """VGG-16 with batch norm for 32x32 images, as kuangliu/pytorch-cifar builds it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision.models.vgg16_bn().features
        self.classifier = nn.Linear(512, 10)

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).flatten(1))
