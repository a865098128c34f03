"""Network in Network in torch, after the authors' Caffe definitions: what ours is held against.

It shares no code with flaxarch. Names of parameters are Caffe's, without the sizes in some of them.
"""

from typing import Any

import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


class NiN(nn.Module):
    """The state dict's names are those of `convs`: conv1, cccp1, cccp2, conv2, cccp3, ..."""

    def __init__(self, convs: dict[str, nn.Conv2d], pools: tuple[Any, ...]):
        super().__init__()
        for name, conv in convs.items():
            self.add_module(name, conv)
        for i in range(len(pools) + 1):  # what gives a stage's map, to be looked at
            self.add_module(f"output{i + 1}", nn.Identity())
        self.pools = pools

    def forward(self, x: Any) -> Any:
        for i in range(len(self.pools) + 1):
            x = F.relu(getattr(self, f"conv{i + 1}")(x))
            x = F.relu(getattr(self, f"cccp{2 * i + 1}")(x))
            if i == len(self.pools):
                x = getattr(self, f"output{i + 1}")(x)  # the last map of features: then come the classes'
                return F.relu(getattr(self, f"cccp{2 * i + 2}")(x)).mean((2, 3))
            x = F.relu(getattr(self, f"cccp{2 * i + 2}")(x))
            x = self.pools[i](getattr(self, f"output{i + 1}")(x), 3, 2, ceil_mode=True)
        raise AssertionError("a NiN has one layer at least")


def nin_cifar10() -> NiN:
    convs = {
        "conv1": nn.Conv2d(3, 192, 5, padding=2),
        "cccp1": nn.Conv2d(192, 160, 1),
        "cccp2": nn.Conv2d(160, 96, 1),
        "conv2": nn.Conv2d(96, 192, 5, padding=2),
        "cccp3": nn.Conv2d(192, 192, 1),
        "cccp4": nn.Conv2d(192, 192, 1),
        "conv3": nn.Conv2d(192, 192, 3, padding=1),
        "cccp5": nn.Conv2d(192, 192, 1),
        "cccp6": nn.Conv2d(192, 10, 1),
    }
    return NiN(convs, (F.max_pool2d, F.avg_pool2d))


def nin_imagenet() -> NiN:
    convs = {
        "conv1": nn.Conv2d(3, 96, 11, stride=4),
        "cccp1": nn.Conv2d(96, 96, 1),
        "cccp2": nn.Conv2d(96, 96, 1),
        "conv2": nn.Conv2d(96, 256, 5, padding=2),
        "cccp3": nn.Conv2d(256, 256, 1),
        "cccp4": nn.Conv2d(256, 256, 1),
        "conv3": nn.Conv2d(256, 384, 3, padding=1),
        "cccp5": nn.Conv2d(384, 384, 1),
        "cccp6": nn.Conv2d(384, 384, 1),
        "conv4": nn.Conv2d(384, 1024, 3, padding=1),
        "cccp7": nn.Conv2d(1024, 1024, 1),
        "cccp8": nn.Conv2d(1024, 1000, 1),
    }
    return NiN(convs, (F.max_pool2d,) * 3)
