"""The AlexNet of 2012 and ZFNet in torch, after the papers: no library has them."""

from typing import Any

import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


class FiveConvolutions(nn.Module):
    """Five convolutions, then three dense layers on 6x6 places; what stands between is the subclass's."""

    def __init__(self, *convs: Any):
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4, self.conv5 = convs
        self.fc6, self.fc7 = nn.Linear(self.conv5.out_channels * 36, 4096), nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, 1000)
        # torch divides alpha by the size, the paper does not
        self.lrn = nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2)

    def dense(self, x: Any) -> Any:
        x = F.adaptive_avg_pool2d(x, 6).flatten(1)  # as it is, at the paper's size
        return self.fc8(F.relu(self.fc7(F.relu(self.fc6(x)))))


class AlexNet2012(FiveConvolutions):
    """Krizhevsky et al. 2012, Sec. 3.5; two groups are the two GPUs."""

    def __init__(self, groups: int):
        super().__init__(
            nn.Conv2d(3, 96, 11, stride=4),
            nn.Conv2d(96, 256, 5, padding=2, groups=groups),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.Conv2d(384, 384, 3, padding=1, groups=groups),
            nn.Conv2d(384, 256, 3, padding=1, groups=groups),
        )

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(self.lrn(F.relu(self.conv1(x))), 3, 2)
        x = F.max_pool2d(self.lrn(F.relu(self.conv2(x))), 3, 2)
        x = F.relu(self.conv5(F.relu(self.conv4(F.relu(self.conv3(x))))))
        return self.dense(F.max_pool2d(x, 3, 2))


class ZFNet(FiveConvolutions):
    """Zeiler & Fergus 2014, Fig. 3."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 96, 7, stride=2, padding=1),
            nn.Conv2d(96, 256, 5, stride=2),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.Conv2d(384, 384, 3, padding=1),
            nn.Conv2d(384, 256, 3, padding=1),
        )

    def forward(self, x: Any) -> Any:
        x = self.lrn(F.max_pool2d(F.relu(self.conv1(x)), 3, 2, ceil_mode=True))
        x = self.lrn(F.max_pool2d(F.relu(self.conv2(x)), 3, 2, ceil_mode=True))
        x = F.relu(self.conv5(F.relu(self.conv4(F.relu(self.conv3(x))))))
        return self.dense(F.max_pool2d(x, 3, 2, ceil_mode=True))
