"""Inception-ResNets in torch, after Szegedy et al. 2017, which no library has: what ours are held against.

They share no code with flaxarch, and have its modules' names. Epsilon and the scales of the branches are
those of the released network.
"""

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


class Unit(nn.Module):
    """Convolution "h x w" without bias, batch norm, ReLU; "V" pads nothing, "S" keeps the size."""

    def __init__(self, c_in: int, c_out: int, size: str, stride: int = 1):
        super().__init__()
        height, width, padded = int(size[0]), int(size[2]), size.endswith("S")
        padding = (height // 2, width // 2) if padded else 0
        self.conv = nn.Conv2d(c_in, c_out, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3)

    def forward(self, x: Any) -> Any:
        return F.relu(self.bn(self.conv(x)))


class Tree(nn.Module):
    """Modules by name: `run` sends an input through several of them in turn."""

    def run(self, x: Any, *names: str) -> Any:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class StemV1:
    """Fig. 14."""

    @staticmethod
    def build(root: Tree) -> None:
        root.conv2d_1a, root.conv2d_2a = Unit(3, 32, "3x3V", 2), Unit(32, 32, "3x3V")
        root.conv2d_2b, root.conv2d_3b = Unit(32, 64, "3x3S"), Unit(64, 80, "1x1V")
        root.conv2d_4a, root.conv2d_4b = Unit(80, 192, "3x3V"), Unit(192, 256, "3x3V", 2)

    @staticmethod
    def run(root: Any, x: Any) -> Any:
        x = F.max_pool2d(root.run(x, "conv2d_1a", "conv2d_2a", "conv2d_2b"), 3, 2)
        return root.run(x, "conv2d_3b", "conv2d_4a", "conv2d_4b")


class StemV4:
    """Fig. 3."""

    @staticmethod
    def build(root: Tree) -> None:
        root.stem_conv1, root.stem_conv2 = Unit(3, 32, "3x3V", 2), Unit(32, 32, "3x3V")
        root.stem_conv3, root.stem_conv4 = Unit(32, 64, "3x3S"), Unit(64, 96, "3x3V", 2)
        root.stem_branch0_0, root.stem_branch0_1 = Unit(160, 64, "1x1S"), Unit(64, 96, "3x3V")
        root.stem_branch1_0, root.stem_branch1_1 = Unit(160, 64, "1x1S"), Unit(64, 64, "1x7S")
        root.stem_branch1_2, root.stem_branch1_3 = Unit(64, 64, "7x1S"), Unit(64, 96, "3x3V")
        root.stem_conv5 = Unit(192, 192, "3x3V", 2)

    @staticmethod
    def run(root: Any, x: Any) -> Any:
        x = root.run(x, "stem_conv1", "stem_conv2", "stem_conv3")
        x = torch.cat([F.max_pool2d(x, 3, 2), root.stem_conv4(x)], 1)
        left = root.run(x, "stem_branch0_0", "stem_branch0_1")
        right = root.run(x, *(f"stem_branch1_{i}" for i in range(4)))
        x = torch.cat([left, right], 1)
        return torch.cat([root.stem_conv5(x), F.max_pool2d(x, 3, 2)], 1)


class Side(nn.Module):
    """Branches side by side; each is a list of (features, size, stride)."""

    def __init__(self, c_in: int, *branches: list[tuple[int, str, int]]):
        super().__init__()
        self.names = []
        for i, branch in enumerate(branches):
            names, c = [], c_in
            for j, (c_out, size, stride) in enumerate(branch):
                names.append(f"branch{i}_{j}" if len(branch) > 1 else f"branch{i}")
                self.add_module(names[-1], Unit(c, c_out, size, stride))
                c = c_out
            self.names.append(names)

    def branches(self, x: Any) -> list[Any]:
        outputs = []
        for names in self.names:
            y = x
            for name in names:
                y = self.get_submodule(name)(y)
            outputs.append(y)
        return outputs


class Reduction(Side):
    """Fig. 7, 12 and 18: the pool comes last."""

    def forward(self, x: Any) -> Any:
        return torch.cat([*self.branches(x), F.max_pool2d(x, 3, 2)], 1)


class Residual(Side):
    """Fig. 10, 11, 13, 16, 17 and 19, with Fig. 20's scaling."""

    def __init__(self, c_in: int, scale: float, inner: int, *branches: list[tuple[int, str, int]]):
        super().__init__(c_in, *branches)
        self.conv2d, self.scale = nn.Conv2d(inner, c_in, 1), scale

    def forward(self, x: Any) -> Any:
        return F.relu(x + self.scale * self.conv2d(torch.cat(self.branches(x), 1)))


def same(*layers: tuple[int, str]) -> list[tuple[int, str, int]]:
    return [(c_out, size + "S", 1) for c_out, size in layers]


def halving(*layers: tuple[int, str]) -> list[tuple[int, str, int]]:
    return [*same(*layers[:-1]), (layers[-1][0], layers[-1][1] + "V", 2)]


class InceptionResNet(Tree):
    """Fig. 15, "v1" or "v2", with so many blocks A, B and C."""

    def __init__(self, version: str, stage_sizes: tuple[int, int, int]):
        super().__init__()
        self.stem, a, b, c = {"v1": (StemV1, 256, 896, 1792), "v2": (StemV4, 384, 1152, 2144)}[version]
        self.stem.build(self)
        if version == "v1":
            block_a = [same((32, "1x1")), same((32, "1x1"), (32, "3x3"))]
            block_a += [same((32, "1x1"), (32, "3x3"), (32, "3x3"))]
            k, l, m, n = 192, 192, 256, 384  # noqa: E741  # Table 1
            block_b = [same((128, "1x1")), same((128, "1x1"), (128, "1x7"), (128, "7x1"))]
            reduction_b = [halving((256, "1x1"), (384, "3x3")), halving((256, "1x1"), (256, "3x3"))]
            reduction_b += [halving((256, "1x1"), (256, "3x3"), (256, "3x3"))]
            block_c = [same((192, "1x1")), same((192, "1x1"), (192, "1x3"), (192, "3x1"))]
            inner = 96, 256, 384
        else:
            block_a = [same((32, "1x1")), same((32, "1x1"), (32, "3x3"))]
            block_a += [same((32, "1x1"), (48, "3x3"), (64, "3x3"))]
            k, l, m, n = 256, 256, 384, 384  # noqa: E741
            block_b = [same((192, "1x1")), same((128, "1x1"), (160, "1x7"), (192, "7x1"))]
            reduction_b = [halving((256, "1x1"), (384, "3x3")), halving((256, "1x1"), (288, "3x3"))]
            reduction_b += [halving((256, "1x1"), (288, "3x3"), (320, "3x3"))]
            block_c = [same((192, "1x1")), same((192, "1x1"), (224, "1x3"), (256, "3x1"))]
            inner = 128, 384, 448
        num_a, num_b, num_c = stage_sizes
        self.order = []
        for i in range(1, num_a + 1):
            self.append(f"block35_{i}", Residual(a, 0.17, inner[0], *block_a))
        longer = halving((k, "1x1"), (l, "3x3"), (m, "3x3"))
        self.append("mixed_6a", Reduction(a, halving((n, "3x3")), longer))
        for i in range(1, num_b + 1):
            self.append(f"block17_{i}", Residual(b, 0.10, inner[1], *block_b))
        self.append("mixed_7a", Reduction(b, *reduction_b))
        for i in range(1, num_c + 1):
            self.append(f"block8_{i}", Residual(c, 0.20, inner[2], *block_c))
        self.classif = nn.Linear(c, 1000)

    def append(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self.order.append(name)

    def forward(self, x: Any) -> Any:
        x = self.run(self.stem.run(self, x), *self.order)
        return self.classif(x.mean((2, 3)))
