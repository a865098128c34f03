"""U-Nets in torch, after the paper and after the libraries' descriptions. Needs torch."""

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


def _named(**modules):
    """A module of modules, by name."""
    return nn.ModuleDict(modules)


def _twice(c_in, c_out, padding, bn):
    """Two 3x3 convolutions; an empty place where there is no norm keeps the numbers in the names."""
    layers = []
    for c in (c_in, c_out):
        layers += [
            nn.Conv2d(c, c_out, 3, padding=padding, bias=not bn),
            nn.BatchNorm2d(c_out) if bn else nn.Identity(),
            nn.ReLU(),
        ]
    return _named(double_conv=nn.Sequential(*layers))


class UNet(nn.Module):
    """Figure 1; `padding` 1 keeps the size, `bn` norms each convolution."""

    def __init__(self, channels=1, num_classes=2, widths=(64, 128, 256, 512, 1024), padding=0, bn=False):
        super().__init__()
        self.depth = len(widths) - 1
        self.inc = _twice(channels, widths[0], padding, bn)
        for i in range(1, len(widths)):
            stage = nn.Sequential(nn.MaxPool2d(2), _twice(widths[i - 1], widths[i], padding, bn))
            setattr(self, f"down{i}", _named(maxpool_conv=stage))
            wide, narrow = widths[-i], widths[-i - 1]
            up = nn.ConvTranspose2d(wide, narrow, 2, stride=2)
            setattr(self, f"up{i}", _named(up=up, conv=_twice(2 * narrow, narrow, padding, bn)))
        self.outc = _named(conv=nn.Conv2d(widths[0], num_classes, 1))
        self.taken = nn.ModuleList(nn.Identity() for _ in widths)  # the last map at each stride passes here

    def forward(self, x):
        maps = [self.inc["double_conv"](x)]
        for i in range(1, self.depth + 1):
            pool, convs = getattr(self, f"down{i}")["maxpool_conv"]
            maps.append(convs["double_conv"](pool(maps[-1])))
        x = self.taken[self.depth](maps.pop())
        for i in range(1, self.depth + 1):
            step, skip = getattr(self, f"up{i}"), maps.pop()
            x = step["up"](x)
            down, right = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            if step["conv"]["double_conv"][0].padding == (0, 0):  # crop the skip
                top, left = down // 2, right // 2
                skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
            else:  # pad what came up
                x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
            x = step["conv"]["double_conv"](torch.cat([skip, x], dim=1))
            x = self.taken[self.depth - i](x)
        return self.outc["conv"](x)


class UNetResNet18(nn.Module):
    """torchvision's ResNet-18, and the decoder of segmentation_models_pytorch."""

    def __init__(self, num_classes=1, widths=(256, 128, 64, 32, 16)):
        super().__init__()
        self.encoder = torchvision.models.resnet18()
        del self.encoder.fc
        channels, skips, blocks = 512, (256, 128, 64, 64, 0), []
        for skip, width in zip(skips, widths, strict=True):
            pairs = {}
            for i, c in ((1, channels + skip), (2, width)):
                conv = nn.Conv2d(c, width, 3, padding=1, bias=False)
                pairs[f"conv{i}"] = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
            blocks.append(nn.ModuleDict(pairs))
            channels = width
        self.decoder = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        self.segmentation_head = nn.Sequential(nn.Conv2d(channels, num_classes, 3, padding=1))

    def forward(self, images):
        net = self.encoder
        skips = [net.relu(net.bn1(net.conv1(images)))]
        x = net.maxpool(skips[0])
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        for block in self.decoder["blocks"]:
            skip = skips.pop() if skips else None
            size = images.shape[2:] if skip is None else skip.shape[2:]
            x = F.interpolate(x, size=size, mode="nearest")
            x = x if skip is None else torch.cat([x, skip], dim=1)
            x = block["conv2"](block["conv1"](x))
        return self.segmentation_head(x)
