"""The airbench networks in torch, after their paper and its code: what ours are held against.

It shares no code with flaxarch. The norms' constant weights, which the authors' have, are left out.
"""

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


class Norm(nn.BatchNorm2d):
    """Batch norm with a bias and no weight."""

    def __init__(self, features: int, momentum: float):
        super().__init__(features, eps=1e-12, momentum=momentum)
        del self.weight
        self.register_parameter("weight", None)


class Group(nn.Module):
    def __init__(self, inputs: int, features: int, depth: int, momentum: float):
        super().__init__()
        self.depth = depth
        for i in range(depth):
            conv = nn.Conv2d(features if i else inputs, features, 3, padding=1, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"norm{i + 1}", Norm(features, momentum))

    def forward(self, x: Any) -> Any:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        y = self.norm2(self.conv2(x))
        if self.depth == 2:
            return F.gelu(y)
        return F.gelu(x + self.norm3(self.conv3(F.gelu(y))))


class Airbench(nn.Module):
    def __init__(self, widths: tuple[int, int, int], depth: int, momentum: float):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        for i, (inputs, features) in enumerate(zip((24, *widths), widths, strict=False)):
            self.add_module(f"group{i + 1}", Group(inputs, features, depth, momentum))
        self.fc = nn.Linear(widths[-1], 10, bias=False)

    def forward(self, x: Any) -> Any:
        x = F.gelu(self.whiten(x))
        x = self.group3(self.group2(self.group1(x)))
        return self.fc(torch.amax(x, (2, 3))) / 9


def airbench94() -> Airbench:
    return Airbench((64, 256, 256), 2, 0.4)


def airbench95() -> Airbench:
    return Airbench((128, 384, 384), 2, 0.4)


def airbench96() -> Airbench:
    return Airbench((128, 384, 512), 3, 0.1)
