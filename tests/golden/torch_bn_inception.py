"""BN-Inception in torch, after Fig. 5 of the paper and the released network: what ours is held against.

It shares no code with flaxarch. Names of parameters are the Caffe release's, as its ports to torch have them.
"""

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

MODULES = {  # 1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3; pool projection
    "3a": ((64, 64, 64, 64, 96), 32),
    "3b": ((64, 64, 96, 64, 96), 64),
    "3c": ((0, 128, 160, 64, 96), 0),
    "4a": ((224, 64, 96, 96, 128), 128),
    "4b": ((192, 96, 128, 96, 128), 128),
    "4c": ((160, 128, 160, 128, 160), 128),
    "4d": ((96, 128, 192, 160, 192), 128),
    "4e": ((0, 128, 192, 192, 256), 0),
    "5a": ((352, 192, 320, 160, 224), 128),
    "5b": ((352, 192, 320, 192, 224), 128),
}


class BNInception(nn.Module):
    """`released`: with biases, and 128 features for the pools of 4c and 4d, where the paper has 96."""

    def __init__(self, *, released: bool):
        super().__init__()
        self.bias, self.strides = released, {}
        self._add("conv1_7x7_s2", 3, 64, 7, 2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        c = self._add("conv2_3x3", 64, 192, 3)
        for number, ((n1, r3, n3, rd, nd), proj) in MODULES.items():
            proj = 96 if number in ("4c", "4d") and not released else proj
            name, stride = f"inception_{number}_", 1 if proj else 2
            if n1:
                self._add(f"{name}1x1", c, n1, 1)
                self._add(f"{name}pool_proj", c, proj, 1)
            self._add(f"{name}3x3_reduce", c, r3, 1)
            self._add(f"{name}3x3", r3, n3, 3, stride)
            self._add(f"{name}double_3x3_reduce", c, rd, 1)
            self._add(f"{name}double_3x3_1", rd, nd, 3)
            self._add(f"{name}double_3x3_2", nd, nd, 3, stride)
            c = n1 + n3 + nd + (proj or c)
        for name in ("conv1", "conv2", *MODULES):  # what gives a stage's map, to be looked at
            self.add_module(f"output_{name}", nn.Identity())
        self.last_linear = nn.Linear(c, 1000)

    def _add(self, name: str, c_in: int, c_out: int, kernel: int, stride: int = 1) -> int:
        self.add_module(name, nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=self.bias))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(c_out))
        return c_out

    def _unit(self, name: str, x: Any) -> Any:
        return F.relu(getattr(self, f"{name}_bn")(getattr(self, name)(x)))

    def forward(self, x: Any) -> Any:
        x = self.output_conv1(self._unit("conv1_7x7_s2", x))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self.output_conv2(self._unit("conv2_3x3", self._unit("conv2_3x3_reduce", x)))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for number in MODULES:
            name = f"inception_{number}_"
            three = self._unit(f"{name}3x3", self._unit(f"{name}3x3_reduce", x))
            double = self._unit(f"{name}double_3x3_1", self._unit(f"{name}double_3x3_reduce", x))
            double = self._unit(f"{name}double_3x3_2", double)
            if number in ("3c", "4e"):
                branches = three, double, F.max_pool2d(x, 3, 2, ceil_mode=True)
            else:
                if number == "5b":
                    pooled = F.max_pool2d(x, 3, 1, padding=1, ceil_mode=True)
                else:
                    pooled = F.avg_pool2d(x, 3, 1, padding=1, ceil_mode=True, count_include_pad=True)
                pooled = self._unit(f"{name}pool_proj", pooled)
                branches = self._unit(f"{name}1x1", x), three, double, pooled
            x = getattr(self, f"output_{number}")(torch.cat(branches, 1))
        return self.last_linear(x.mean((2, 3)))
