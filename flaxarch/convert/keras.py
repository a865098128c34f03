"""Keras applications' names."""

import re
from collections.abc import Callable, Iterable

from flaxarch.convert.rules import KERAS, Rules


def _block(match: re.Match[str]) -> str:
    """layer1_0 -> conv2_block1: the paper's conv2_x is the first stage, and blocks count from one."""
    return f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}"


# MLPerf Tiny's ResNet-8: layers without names of their own, numbered as they were made.
_RESNET8 = {
    "conv1": "conv2d",
    "layer1_0/conv1": "conv2d_1",
    "layer1_0/conv2": "conv2d_2",
    "layer2_0/conv1": "conv2d_3",
    "layer2_0/conv2": "conv2d_4",
    "layer2_0/downsample_conv": "conv2d_5",
    "layer3_0/conv1": "conv2d_6",
    "layer3_0/conv2": "conv2d_7",
    "layer3_0/downsample_conv": "conv2d_8",
    "bn1": "batch_normalization",
    "layer1_0/bn1": "batch_normalization_1",
    "layer1_0/bn2": "batch_normalization_2",
    "layer2_0/bn1": "batch_normalization_3",
    "layer2_0/bn2": "batch_normalization_4",
    "layer3_0/bn1": "batch_normalization_5",
    "layer3_0/bn2": "batch_normalization_6",
    "fc": "dense",
}
RESNET8 = Rules("Keras", KERAS, ((r".+", lambda match: _RESNET8.get(match[0], match[0])),))

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


def _numbered(blocks: Iterable[tuple[str, str]]) -> tuple[str, Callable[[re.Match[str]], str]]:
    """Keras's names of convolutions and batch norms without a name: conv2d, conv2d_1, ... as they are made.

    `blocks` are our modules in that order, each with the units (convolution, batch norm) in it.
    """
    paths = [f"{block}/{unit}" if block else unit for block, units in blocks for unit in units.split()]
    numbers = {path: number for number, path in enumerate(paths)}

    def name(match: re.Match[str]) -> str:
        number = numbers.get(match[1])
        kind = "conv2d" if match[2] == "conv" else "batch_normalization"
        return match[0] if number is None else f"{kind}_{number}" if number else kind

    return r"^(.+)/(conv|bn)$", name


_INCEPTION_A = "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool"
_INCEPTION_B = (
    "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 "
    "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5 branch_pool"
)
_INCEPTION_C = (
    "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b "
    "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a branch3x3dbl_3b branch_pool"
)
_INCEPTION_V3 = (
    ("", "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Conv2d_3b_1x1 Conv2d_4a_3x3"),
    *((f"Mixed_5{letter}", _INCEPTION_A) for letter in "bcd"),
    ("Mixed_6a", "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3"),
    *((f"Mixed_6{letter}", _INCEPTION_B) for letter in "bcde"),
    ("Mixed_7a", "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4"),
    *((f"Mixed_7{letter}", _INCEPTION_C) for letter in "bc"),
)
INCEPTION_V3 = Rules("Keras", KERAS, ((r"^fc$", "predictions"), _numbered(_INCEPTION_V3)))

_RESIDUAL_A = "branch0 branch1_0 branch1_1 branch2_0 branch2_1 branch2_2"
_RESIDUAL_B = _RESIDUAL_C = "branch0 branch1_0 branch1_1 branch1_2"
_INCEPTION_RESNET = (
    ("", "conv2d_1a conv2d_2a conv2d_2b conv2d_3b conv2d_4a"),
    ("mixed_5b", "branch0 branch1_0 branch1_1 branch2_0 branch2_1 branch2_2 branch3_1"),
    *((f"block35_{i}", _RESIDUAL_A) for i in range(1, 11)),
    ("mixed_6a", "branch0 branch1_0 branch1_1 branch1_2"),
    *((f"block17_{i}", _RESIDUAL_B) for i in range(1, 21)),
    ("mixed_7a", "branch0_0 branch0_1 branch1_0 branch1_1 branch2_0 branch2_1 branch2_2"),
    *((f"block8_{i}", _RESIDUAL_C) for i in range(1, 11)),
)
INCEPTION_RESNET = Rules(
    "Keras",
    KERAS,
    (
        (r"^classif$", "predictions"),
        (r"^(block\d+_\d+)/conv2d$", r"\1_conv"),
        (r"^conv2d_7b/conv$", "conv_7b"),
        (r"^conv2d_7b/bn$", "conv_7b_bn"),
        _numbered(_INCEPTION_RESNET),
    ),
)

VGG = Rules(
    "Keras",
    KERAS,
    (
        (r"^conv(\d)_(\d)$", r"block\1_conv\2"),
        (r"^fc6$", "fc1"),
        (r"^fc7$", "fc2"),
        (r"^fc8$", "predictions"),
    ),
    flattened=(r"fc\d",),
)


def _dense_layer(match: re.Match[str]) -> str:
    """block1_layer1 -> conv2_block1: Keras's blocks are the paper's layers."""
    return f"conv{int(match[1]) + 1}_block{match[2]}"


DENSENET = Rules(
    "Keras",
    KERAS,
    (
        (r"^conv0$", "conv1_conv"),
        (r"^norm0$", "conv1_bn"),
        (r"^norm5$", "bn"),
        (r"^classifier$", "predictions"),
        (r"^transition(\d)/", lambda match: f"pool{int(match[1]) + 1}_"),
        (r"_norm$", "_bn"),
        (r"^block(\d+)_layer(\d+)", _dense_layer),
        (r"/norm(\d)$", lambda match: f"_{int(match[1]) - 1}_bn"),
        (r"/conv(\d)$", r"_\1_conv"),
    ),
)

PREACT_RESNET = Rules(
    "Keras",
    KERAS,
    (
        (r"^conv1$", "conv1_conv"),
        (r"^norm$", "post_bn"),
        (r"^fc$", "predictions"),
        (r"^layer(\d+)_(\d+)", _block),
        (r"/shortcut$", "_0_conv"),
        (r"/norm1$", "_preact_bn"),
        (r"/norm(\d)$", lambda match: f"_{int(match[1]) - 1}_bn"),
        (r"/conv(\d)$", r"_\1_conv"),
    ),
)


def _xception(match: re.Match[str]) -> str:
    """Block 1 is the stem in Keras, whose projections have no names of their own."""
    block, kind, number = int(match[1]), match[2], match[3]
    if kind in ("skip", "skipbn"):
        found, place = {"skip": "conv2d", "skipbn": "batch_normalization"}[kind], (1, 2, 3, 12).index(block)
        return f"{found}_{place}" if place else found
    return f"block{block + 1}_sepconv{number}" + ("_bn" if kind == "bn" else "")


XCEPTION = Rules(
    "Keras",
    KERAS,
    (
        (r"^block(\d+)/(sepconv|bn|skipbn|skip)(\d?)", _xception),
        (r"^(conv|bn)([12])$", lambda match: f"block1_conv{match[2]}" + "_bn" * (match[1] == "bn")),
        (r"^conv([34])/", lambda match: f"block14_sepconv{int(match[1]) - 2}/"),
        (r"^bn([34])$", lambda match: f"block14_sepconv{int(match[1]) - 2}_bn"),
        (r"^fc$", "predictions"),
    ),
    depthwise=(r".*/depthwise",),
    tensors=((r"/(depthwise|pointwise)/kernel$", r"/\1_kernel"),),
)
