"""DenseNets for CIFAR in torch, after Huang et al. 2017, Sec. 3: what ours are held against.

They share no code with flaxarch; parameters have the names of torchvision's DenseNets.
"""

from collections import OrderedDict
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


class Layer(nn.Module):
    """H_l: BN-ReLU-3x3, or with bottlenecks BN-ReLU-1x1 of 4k features ahead of it."""

    def __init__(self, c_in: int, k: int, bottleneck: bool):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, 4 * k, 1, bias=False)
        if bottleneck:
            self.norm2 = nn.BatchNorm2d(4 * k)
            self.conv2 = nn.Conv2d(4 * k, k, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(c_in, k, 3, padding=1, bias=False)
        self.bottleneck = bottleneck

    def forward(self, maps: list[Any]) -> Any:
        y = self.conv1(F.relu(self.norm1(torch.cat(maps, 1))))
        return self.conv2(F.relu(self.norm2(y))) if self.bottleneck else y


class Block(nn.Module):
    """x_l = H_l([x_0, ..., x_(l-1)]), equation 2, with all maps kept apart until they are read."""

    def __init__(self, c_in: int, num_layers: int, k: int, bottleneck: bool):
        super().__init__()
        for i in range(num_layers):
            self.add_module(f"denselayer{i + 1}", Layer(c_in + i * k, k, bottleneck))

    def forward(self, x: Any) -> Any:
        maps = [x]
        for layer in self.children():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class CifarDenseNet(nn.Module):
    """L layers of growth rate k in three blocks; `bc`: bottlenecks, theta 0.5, a stem of 2k features."""

    def __init__(self, depth: int, k: int, bc: bool):
        super().__init__()
        c = 2 * k if bc else 16
        num_layers = (depth - 4) // (6 if bc else 3)
        self.features = nn.Sequential(OrderedDict(conv0=nn.Conv2d(3, c, 3, padding=1, bias=False)))
        for i in (1, 2, 3):
            self.features.add_module(f"denseblock{i}", Block(c, num_layers, k, bc))
            c += num_layers * k
            if i < 3:
                after = c // 2 if bc else c
                parts = {
                    "norm": nn.BatchNorm2d(c),
                    "relu": nn.ReLU(),
                    "conv": nn.Conv2d(c, after, 1, bias=False),
                    "pool": nn.AvgPool2d(2),
                }
                self.features.add_module(f"transition{i}", nn.Sequential(OrderedDict(parts)))
                c = after
        self.features.add_module("norm5", nn.BatchNorm2d(c))
        self.features.add_module("relu5", nn.ReLU())
        self.classifier = nn.Linear(c, 10)

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))
