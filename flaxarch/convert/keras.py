"""Keras applications' names."""

import re

from flaxarch.convert.rules import KERAS, Rules


def _block(match: re.Match[str]) -> str:
    """layer1_0 -> conv2_block1: the paper's conv2_x is the first stage, and blocks count from one."""
    return f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}"


RESNET = Rules(
    "Keras",
    KERAS,
    (
        (r"^conv1$", "conv1_conv"),
        (r"^bn1$", "conv1_bn"),
        (r"^fc$", "predictions"),
        (r"^layer(\d+)_(\d+)", _block),
        (r"/downsample_(conv|bn)$", r"_0_\1"),
        (r"/(conv|bn)(\d)$", r"_\2_\1"),
    ),
)
