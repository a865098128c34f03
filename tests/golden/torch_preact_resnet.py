"""Pre-activation networks in torch, after He et al. 2016b, where no library has them.

They share no code with flaxarch. Which layers stand where is spelled out for each row of Fig. 4.
"""

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


class Unit(nn.Module):
    """A unit of Fig. 4, row "a" to "e", with one of the shortcuts of Fig. 2.

    `bottleneck`: as in the authors' code, with the stride on the first 1x1. `first`: its input is activated.
    """

    def __init__(
        self, c_in: int, c: int, stride: int, bottleneck: bool, row: str, shortcut: str, first: bool
    ):
        super().__init__()
        sizes, widths = ((1, 3, 1), (c // 4, c // 4, c)) if bottleneck else ((3, 3), (c, c))
        self.n, inputs = len(sizes), (c_in, *widths[:-1])
        for i, (size, inner, width) in enumerate(zip(sizes, inputs, widths, strict=True), start=1):
            strides = stride if i == 1 else 1
            self.add_module(f"conv{i}", nn.Conv2d(inner, width, size, strides, size // 2, bias=False))
            if not (row == "e" and i == 1 and first):
                self.add_module(f"norm{i}", nn.BatchNorm2d(inner if row == "e" else width))
        self.row, self.kind, self.first, self.stride, self.new = row, shortcut, first, stride, c - c_in
        if shortcut == "conv" or (shortcut == "projection" and (self.new or stride > 1)):
            self.shortcut = nn.Conv2d(c_in, c, 1, stride, bias=False)
        if "gating" in shortcut:
            self.gate = nn.Conv2d(c, c, 1)

    def forward(self, x: Any) -> Any:
        y, activated = self.branch(x)
        if hasattr(self, "shortcut"):
            return self.end(self.shortcut(activated) + y)
        before = self.new // 2
        x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new - before))
        if self.kind == "scaling":
            x, y = x / 2, y / 2
        elif "gating" in self.kind:
            g = torch.sigmoid(self.gate(x))
            x, y = x - g * x, g * y if self.kind == "exclusive gating" else y
        return self.end(x + y)

    def branch(self, x: Any) -> tuple[Any, Any]:
        activated, y = x, x
        for i in range(1, self.n + 1):
            conv, norm = getattr(self, f"conv{i}"), getattr(self, f"norm{i}", nn.Identity())
            if self.row in "de" and not (i == 1 and self.first):
                y = F.relu(norm(y) if self.row == "e" else y)
            activated = y if i == 1 else activated
            y = conv(y)
            if self.row in "acd" or (self.row == "b" and i < self.n):
                y = norm(y)
            if self.row == "c" or (self.row in "ab" and i < self.n):
                y = F.relu(y)
        return y, activated

    def end(self, x: Any) -> Any:
        if self.row == "b":
            x = getattr(self, f"norm{self.n}")(x)
        return F.relu(x) if self.row in "ab" else x


class PreActResNet(nn.Module):
    def __init__(
        self,
        stage_sizes: tuple[int, ...],
        bottleneck: bool,
        row: str = "e",
        shortcut: str = "projection",
        imagenet: bool = False,
    ):
        super().__init__()
        c = 64 if imagenet else 16
        widths = [(4 if bottleneck else 1) * c * 2**i for i in range(len(stage_sizes))]
        self.conv1 = (
            nn.Conv2d(3, c, 7, 2, 3, bias=False) if imagenet else nn.Conv2d(3, c, 3, 1, 1, bias=False)
        )
        self.norm1 = nn.BatchNorm2d(c)
        self.stages = []
        for i, (n, width) in enumerate(zip(stage_sizes, widths, strict=True)):
            units = []
            for j in range(n):
                stride = 2 if i and not j else 1
                units.append(Unit(c, width, stride, bottleneck, row, shortcut, first=not (i or j)))
                c = width
            self.stages.append(nn.Sequential(*units))
            self.add_module(f"layer{i + 1}", self.stages[-1])
        self.norm = nn.BatchNorm2d(c) if row == "e" else nn.Identity()
        self.tail = nn.ReLU() if row in "de" else nn.Identity()
        self.fc = nn.Linear(c, 1000 if imagenet else 10)
        self.imagenet = imagenet

    def forward(self, x: Any) -> Any:
        x = F.relu(self.norm1(self.conv1(x)))
        if self.imagenet:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.stages:
            x = stage(x)
        return self.fc(self.tail(self.norm(x)).mean((2, 3)))
