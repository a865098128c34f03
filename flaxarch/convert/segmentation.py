"""Names of U-Nets: Pytorch-UNet's, and segmentation_models_pytorch's."""

import re

from flaxarch.convert import torchvision
from flaxarch.convert.rules import TORCH, Rules

_DROPPED = (r".*\.num_batches_tracked",)


def _double_conv(match: re.Match[str]) -> str:
    """conv1, bn1, conv2, bn2 -> 0, 1, 3, 4: ReLUs count too."""
    return f"double_conv.{3 * int(match[2]) - 3 + (match[1] == 'bn')}"


PYTORCH_UNET = Rules(
    "Pytorch-UNet",
    TORCH,
    (
        (r"^upconv(\d)$", r"up\1.up"),
        (r"^down(\d)/", r"down\1.maxpool_conv.1."),
        (r"^up(\d)/", r"up\1.conv."),
        (r"(conv|bn)(\d)$", _double_conv),
        (r"^outc$", "outc.conv"),
        (r"/", "."),
    ),
    _DROPPED,
)


def _encoder(match: re.Match[str]) -> str:
    return f"encoder.{torchvision.RESNET.module(match[1])}"


# With a ResNet, which it names as torchvision does.
SEGMENTATION_MODELS = Rules(
    "segmentation_models_pytorch",
    TORCH,
    (
        (r"^encoder/(.+)$", _encoder),
        (r"^decoder(\d+)/conv(\d)/", r"decoder.blocks.\1.conv\2."),
        (r"^(decoder.*\.)conv$", r"\g<1>0"),
        (r"^(decoder.*\.)bn$", r"\g<1>1"),
        (r"^outc$", "segmentation_head.0"),
    ),
    _DROPPED,
)
