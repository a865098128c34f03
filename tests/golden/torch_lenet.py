"""LeNet-5 in torch, of 1998 and as it is usually written: what ours are held against.

They share no code with flaxarch. Names of parameters are, of the usual form, those of most checkpoints.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


class LeNet5(nn.Module):
    """`relu`: max-pools, ReLU, no padding; else means, tanh, and a padding of 2."""

    def __init__(self, *, relu: bool):
        super().__init__()
        self.relu = relu
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=0 if relu else 2), nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * (16 if relu else 25), 120)
        self.fc2, self.fc3 = nn.Linear(120, 84), nn.Linear(84, 10)
        self.pool = nn.MaxPool2d(2) if relu else nn.AvgPool2d(2)
        self.act: Callable[[Any], Any] = F.relu if relu else torch.tanh

    def forward(self, x: Any) -> Any:
        x = self.pool(self.act(self.conv1(x)))
        x = self.pool(self.act(self.conv2(x))).flatten(1)
        return self.fc3(self.act(self.fc2(self.act(self.fc1(x)))))


# Table I of the paper, a row for each map of C3, a column for each of S2.
CONNECTED = (
    *("xxx...", ".xxx..", "..xxx.", "...xxx", "x...xx", "xx...x"),
    *("xxxx..", ".xxxx.", "..xxxx", "x..xxx", "xx..xx", "xxx..x", "xx.xx.", ".xx.xx", "x.xx.x"),
    "xxxxxx",
)


def squash(x: Any) -> Any:
    return 1.7159 * torch.tanh(x * 2 / 3)


class LeNet1998(nn.Module):
    """Outputs minus the squared distances from the codes, of which the reader finds 840 bits."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5)
        self.s2, self.s4 = (nn.Conv2d(c, c, 1, groups=c) for c in (6, 16))  # coefficients and biases
        self.c3 = nn.ModuleDict(
            {name: nn.Conv2d(6, n, (5, 5)) for name, n in (("three", 6), ("four", 9), ("six", 1))}
        )
        for conv, inputs in zip(self.c3.values(), (3, 4, 6), strict=True):
            conv.weight = nn.Parameter(torch.empty(conv.out_channels, inputs, 5, 5))
        self.c5, self.f6 = nn.Conv2d(16, 120, 5), nn.Conv2d(120, 84, 1)
        self.c1_output, self.c3_output, self.s4_output = (nn.Identity() for _ in range(3))  # to be looked at

    def _subsampled(self, x: Any, trained: nn.Conv2d) -> Any:
        x = x[..., : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
        total = x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]
        return squash(trained.weight.view(-1, 1, 1) * total + trained.bias.view(-1, 1, 1))

    def _c3(self, x: Any) -> Any:
        maps = []
        kernels = (kernel for conv in self.c3.values() for kernel in conv.weight)
        biases = (bias for conv in self.c3.values() for bias in conv.bias)
        for connected, kernel, bias in zip(CONNECTED, kernels, biases, strict=True):
            inputs = [i for i, mark in enumerate(connected) if mark == "x"]
            maps.append(F.conv2d(x[:, inputs], kernel[None], bias[None]))
        return torch.cat(maps, 1)

    def forward(self, x: Any) -> Any:
        x = self._subsampled(self.c1_output(squash(self.c1(x))), self.s2)
        x = self.s4_output(self._subsampled(self.c3_output(squash(self._c3(x))), self.s4))
        x = squash(self.f6(squash(self.c5(x)))).flatten(1)
        bits = torch.from_numpy((np.random.PCG64(1998).random_raw(840) >> np.uint64(63)).astype(np.float64))
        return -((x[:, None] - (2 * bits - 1).view(10, 84)) ** 2).sum(-1)
