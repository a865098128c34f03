"""Residual networks in torch, after the papers, where no library has them: what ours are held against.

They share no code with flaxarch, and take their names of parameters from the checkpoints that are about
(akamaster/pytorch_resnet_cifar10) or from torchvision.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


def conv3x3(c_in: int, c_out: int, stride: int = 1, groups: int = 1) -> Any:
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(c_in: int, c_out: int, stride: int = 1) -> Any:
    return nn.Conv2d(c_in, c_out, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """He et al. 2016, Sec. 4.2; `shortcut` is "A", "B", "pool" (Huang et al. 2016) or "none" (plain)."""

    def __init__(self, c_in: int, c_out: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(c_in, c_out, stride), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = conv3x3(c_out, c_out), nn.BatchNorm2d(c_out)
        self.stride, self.new, self.shortcut = stride, c_out - c_in, shortcut
        if shortcut == "B" and (self.new or stride > 1):
            self.downsample = nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut == "none":
            return F.relu(y)
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        elif self.shortcut == "pool" and self.stride > 1:
            x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        else:
            x = x[:, :, :: self.stride, :: self.stride]
        missing = y.shape[1] - x.shape[1]
        before = missing // 2 if self.shortcut == "A" else 0
        return F.relu(y + F.pad(x, (0, 0, 0, 0, before, missing - before)))


class WideBlock(nn.Module):
    """Zagoruyko & Komodakis 2016, Fig. 1c, without dropout."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), conv3x3(c_in, c_out, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(c_out), conv3x3(c_out, c_out)
        self.shortcut = conv1x1(c_in, c_out, stride) if c_in != c_out else None

    def forward(self, x: Any) -> Any:
        activated = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return y + (x if self.shortcut is None else self.shortcut(activated))


class ResNextBlock(nn.Module):
    """Xie et al. 2017, Fig. 3c: 1x1, grouped 3x3, 1x1 to four times `width / 64` of the group's features."""

    def __init__(self, c_in: int, c_out: int, stride: int, cardinality: int, group_width: int):
        super().__init__()
        inner = cardinality * group_width
        self.conv1, self.bn1 = conv1x1(c_in, inner), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv3x3(inner, inner, stride, cardinality), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = conv1x1(inner, c_out), nn.BatchNorm2d(c_out)
        self.downsample = None
        if c_in != c_out:
            self.downsample = nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def stages(block: Any, num_blocks: int, c_in: int, widths: tuple[int, int, int]) -> dict[str, Any]:
    """Three stages, of which the second and the third halve height and width; block(c_in, c_out, stride)."""
    found = {}
    for i, width in enumerate(widths, start=1):
        strides = [1 if i == 1 else 2] + [1] * (num_blocks - 1)
        inputs = [c_in] + [width] * (num_blocks - 1)
        found[f"layer{i}"] = nn.Sequential(
            *(block(c, width, stride) for c, stride in zip(inputs, strides, strict=True))
        )
        c_in = width
    return found


class CifarResNet(nn.Module):
    def __init__(self, depth: int, shortcut: str = "A"):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, 16), nn.BatchNorm2d(16)
        block = partial(BasicBlock, shortcut=shortcut)
        self.body = stages(block, (depth - 2) // 6, 16, (16, 32, 64))
        for name, stage in self.body.items():
            self.add_module(name, stage)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.body.values():
            x = stage(x)
        return self.linear(x.mean((2, 3)))


class WideResNet(nn.Module):
    def __init__(self, depth: int, widen_factor: int):
        super().__init__()
        self.conv1 = conv3x3(3, 16)
        k = widen_factor
        self.body = stages(WideBlock, (depth - 4) // 6, 16, (16 * k, 32 * k, 64 * k))
        for name, stage in self.body.items():
            self.add_module(name, stage)
        self.bn, self.fc = nn.BatchNorm2d(64 * k), nn.Linear(64 * k, 10)

    def forward(self, x: Any) -> Any:
        x = self.conv1(x)
        for stage in self.body.values():
            x = stage(x)
        return self.fc(F.relu(self.bn(x)).mean((2, 3)))


class CifarResNext(nn.Module):
    def __init__(self, cardinality: int, group_width: int):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, 64), nn.BatchNorm2d(64)
        self.body = {}
        for i, width in enumerate((256, 512, 1024)):  # a group is twice as wide in each stage
            block = partial(ResNextBlock, cardinality=cardinality, group_width=group_width * 2**i)
            self.body[f"layer{i + 1}"] = nn.Sequential(
                block(max(64, width // 2) if i else 64, width, 2 if i else 1),
                block(width, width, 1),
                block(width, width, 1),
            )
        for name, stage in self.body.items():
            self.add_module(name, stage)
        self.fc = nn.Linear(1024, 10)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.body.values():
            x = stage(x)
        return self.fc(x.mean((2, 3)))


class PlainBlock(torchvision.models.resnet.BasicBlock):
    """torchvision's block without its shortcut: He et al. 2016, Sec. 4.1."""

    def forward(self, x: Any) -> Any:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def plain_resnet(stage_sizes: list[int]) -> Any:
    """He et al. 2016, Table 1, without shortcuts."""
    network = torchvision.models.ResNet(PlainBlock, stage_sizes)
    for block in network.modules():
        if isinstance(block, PlainBlock):
            block.downsample = None
    return network


def dilated_resnet50(output_stride: int) -> Any:
    """torchvision's ResNet-50, dilated."""
    instead = {8: [False, True, True], 16: [False, False, True]}[output_stride]
    return torchvision.models.resnet50(replace_stride_with_dilation=instead)
