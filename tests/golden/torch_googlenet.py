"""The GoogLeNet of the paper in torch, after Table 1 and Fig. 3: what ours is held against.

It shares no code with flaxarch. Names of parameters are torchvision's.
"""

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

MODULES = {  # 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class ConvReLU(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2)

    def forward(self, x: Any) -> Any:
        return F.relu(self.conv(x))


class Inception(nn.Module):
    def __init__(self, c_in: int, n1: int, r3: int, n3: int, r5: int, n5: int, proj: int):
        super().__init__()
        self.branch1 = ConvReLU(c_in, n1, 1)
        self.branch2 = nn.Sequential(ConvReLU(c_in, r3, 1), ConvReLU(r3, n3, 3))
        self.branch3 = nn.Sequential(ConvReLU(c_in, r5, 1), ConvReLU(r5, n5, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), ConvReLU(c_in, proj, 1))

    def forward(self, x: Any) -> Any:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Aux(nn.Module):
    def __init__(self, c_in: int):
        super().__init__()
        self.conv = ConvReLU(c_in, 128, 1)
        self.fc1, self.fc2 = nn.Linear(2048, 1024), nn.Linear(1024, 1000)

    def forward(self, x: Any) -> Any:
        x = self.conv(F.avg_pool2d(x, 5, 3)).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


class GoogLeNet(nn.Module):
    """Logits; in training (logits, aux1, aux2), if there are auxiliary heads."""

    def __init__(self, *, aux: bool = True):
        super().__init__()
        self.conv1 = ConvReLU(3, 64, 7, 2)
        self.conv2, self.conv3 = ConvReLU(64, 64, 1), ConvReLU(64, 192, 3)
        c_in = 192
        for number, widths in MODULES.items():
            self.add_module(f"inception{number}", Inception(c_in, *widths))
            c_in = widths[0] + widths[2] + widths[4] + widths[5]
        self.aux1, self.aux2 = (Aux(512), Aux(528)) if aux else (None, None)
        self.fc = nn.Linear(c_in, 1000)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.local_response_norm(x, 5, 1e-4, 0.75, 1.0)
        x = F.local_response_norm(self.conv3(self.conv2(x)), 5, 1e-4, 0.75, 1.0)
        aux_logits = []
        for number in MODULES:
            if number in ("3a", "4a", "5a"):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = getattr(self, f"inception{number}")(x)
            aux = {"4a": self.aux1, "4d": self.aux2}.get(number)
            if self.training and aux is not None:
                aux_logits.append(aux(x))
        logits = self.fc(x.mean((2, 3)))
        return (logits, *aux_logits) if aux_logits else logits
