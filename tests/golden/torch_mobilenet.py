"""MobileNet (v1) in torch after the paper, with the names of biubug6/Pytorch_Retinaface. Needs torch."""

from torch import nn  # pyright: ignore[reportMissingImports]


def _unit(channels: int, features: int, kernel_size: int, stride: int, groups: int = 1) -> list:
    conv = nn.Conv2d(channels, features, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(features), nn.ReLU()]


class MobileNet(nn.Module):
    """Thirteen depthwise separable blocks in three stages, each ending ahead of a change of width."""

    def __init__(self, alpha: float):
        super().__init__()
        widths = [int(alpha * n) for n in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        units = [nn.Sequential(*_unit(3, widths[0], 3, 2))]
        for channels, features, stride in zip(widths, widths[1:], strides, strict=False):
            depthwise = _unit(channels, channels, 3, stride, groups=channels)
            units.append(nn.Sequential(*depthwise, *_unit(channels, features, 1, 1)))
        self.stage1 = nn.Sequential(*units[:6])
        self.stage2 = nn.Sequential(*units[6:12])
        self.stage3 = nn.Sequential(*units[12:])
        self.fc = nn.Linear(widths[-1], 1000)

    def forward(self, x):
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(x.mean((2, 3)))
