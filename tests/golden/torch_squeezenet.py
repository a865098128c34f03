"""SqueezeNet 1.0 with simple bypass in torch, after the paper: no library has it."""

from typing import Any

import torchvision  # pyright: ignore[reportMissingImports]


class Bypassed(torchvision.models.squeezenet.Fire):
    """Iandola et al. 2016, Fig. 2: what goes into a fire module is added to what comes out."""

    def forward(self, x: Any) -> Any:
        return x + super().forward(x)


def squeezenet1_0_bypass() -> Any:
    network = torchvision.models.squeezenet1_0()
    for i in (4, 7, 9, 12):  # fire 3, 5, 7, 9
        network.features[i].__class__ = Bypassed
    return network
