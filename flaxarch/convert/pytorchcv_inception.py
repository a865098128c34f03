"""pytorchcv's names of the Inceptions: a unit's branches.branchI.conv_list.convJ.

A unit that halves the map opens a stage: our reduction_a is stage2.unit1, and inception_b1 stage2.unit2.
"""

import re
from collections.abc import Callable

from flaxarch.convert.pytorchcv import DROPPED, SOURCE
from flaxarch.convert.rules import TORCH, Rules

_PATH_END = (r"/", ".")
_SPLITS = {"a": "conv1x3", "b": "conv3x1"}  # where a branch ends in two convolutions side by side


def _halves(unit: str) -> bool:
    return unit.endswith(("stage2.unit1", "stage3.unit1"))


def _in_branch(unit: str, number: int, layer: str) -> str:
    """`layer` counts from one, and ends in a or b in a split; it is empty in a branch of one convolution."""
    if layer[-1:] in _SPLITS:
        return f"{unit}.branches.branch{number}.{_SPLITS[layer[-1]]}/"
    alone = not layer and not _halves(unit)
    return f"{unit}.branches.branch{number}.{'conv' if alone else f'conv_list.conv{layer or 1}'}/"


def _mixed(match: re.Match[str]) -> str:
    """Mixed_6b/ -> features.stage2.unit2/, but Mixed_5b/ is stage1.unit1: no Mixed_5a halves the map."""
    stage = int(match[1]) - 4
    return f"features.stage{stage}.unit{'abcde'.index(match[2]) + (stage > 1)}/"


_V3_BRANCHES = {"1x1": 1, "5x5": 2, "3x3": 2, "7x7": 2, "3x3dbl": 3, "7x7dbl": 3, "7x7x3": 3, "pool": 4}


def _v3_branch(match: re.Match[str]) -> str:
    """A unit that halves the map has no 1x1 branch, so that the others have lower numbers."""
    unit, kind, layer = match[1], match[2], match[3] or ""
    return _in_branch(unit, _V3_BRANCHES[kind] - _halves(unit), layer)


INCEPTION_V3 = Rules(
    SOURCE,
    TORCH,
    (
        (r"^Conv2d_1a_3x3/", "features.init_block.conv1/"),
        (r"^Conv2d_2a_3x3/", "features.init_block.conv2/"),
        (r"^Conv2d_2b_3x3/", "features.init_block.conv3/"),
        (r"^Conv2d_3b_1x1/", "features.init_block.conv4/"),
        (r"^Conv2d_4a_3x3/", "features.init_block.conv5/"),
        (r"^Mixed_(\d)(\w)/", _mixed),
        (r"^(.+)/branch_?([0-9x]+(?:dbl)?|pool)(?:_(\d[ab]?))?/", _v3_branch),
        (r"^fc$", "output.fc"),
        _PATH_END,
    ),
    DROPPED,
)


def _v4_branch(match: re.Match[str]) -> str:
    """branch1_0 -> branch2.conv_list.conv1; branch3_1 is the pooled branch's one convolution."""
    unit, number, layer = match[1], int(match[2]), match[3]
    if layer is None or number == 3:
        return _in_branch(unit, number + 1, "")
    return _in_branch(unit, number + 1, f"{int(layer) + 1}{match[4]}")


def _next_unit(stage: int) -> Callable[[re.Match[str]], str]:
    """A number, of a unit behind the one that halves the map -> the unit of the stage."""
    return lambda match: f"features.stage{stage}.unit{int(match[1]) + 1}/"


_V4_BRANCH = (r"^(.+)/branch(\d)(?:_(\d)([ab]?))?/", _v4_branch)

INCEPTION_V4 = Rules(
    SOURCE,
    TORCH,
    (
        (r"^stem_conv([123])/", r"features.init_block.conv\1/"),
        (r"^stem_conv4/", "features.init_block.block1.branches.branch2.conv/"),
        (r"^stem_conv5/", "features.init_block.block3.branches.branch1.conv/"),
        (r"^stem_branch", "features.init_block.block2/branch"),
        (r"^inception_a(\d)/", r"features.stage1.unit\1/"),
        (r"^reduction_a/", "features.stage2.unit1/"),
        (r"^inception_b(\d)/", _next_unit(2)),
        (r"^reduction_b/", "features.stage3.unit1/"),
        (r"^inception_c(\d)/", _next_unit(3)),
        _V4_BRANCH,
        (r"^last_linear$", "output.fc"),
        _PATH_END,
    ),
    DROPPED,
)
INCEPTION_RESNET = Rules(
    SOURCE,
    TORCH,
    (
        (r"^conv2d_1a/", "features.init_block.conv1/"),
        (r"^conv2d_2a/", "features.init_block.conv2/"),
        (r"^conv2d_2b/", "features.init_block.conv3/"),
        (r"^conv2d_3b/", "features.init_block.conv4/"),
        (r"^conv2d_4a/", "features.init_block.conv5/"),
        (r"^mixed_5b/", "features.init_block.block/"),
        (r"^block35_(\d+)/", r"features.stage1.unit\1/"),
        (r"^mixed_6a/", "features.stage2.unit1/"),
        (r"^block17_(\d+)/", _next_unit(2)),
        (r"^mixed_7a/", "features.stage3.unit1/"),
        (r"^block8_(\d+)/", _next_unit(3)),
        _V4_BRANCH,
        (r"/conv2d$", "/conv"),
        (r"^conv2d_7b/", "features.final_conv/"),
        (r"^classif$", "output.fc"),
        _PATH_END,
    ),
    DROPPED,
)

_BN_UNITS = {
    name: f"features.stage{stage}.unit{number}"
    for stage, names in enumerate((("3a", "3b"), ("3c", "4a", "4b", "4c", "4d"), ("4e", "5a", "5b")), start=1)
    for number, name in enumerate(names, start=1)
}
_BN_BRANCHES = {
    "1x1": (1, ""),
    "3x3_reduce": (2, ".conv1"),
    "3x3": (2, ".conv2"),
    "double_3x3_reduce": (3, ".conv1"),
    "double_3x3_1": (3, ".conv2"),
    "double_3x3_2": (3, ".conv3"),
    "pool_proj": (4, ".conv"),
}


def _bn_branch(match: re.Match[str]) -> str:
    """inception_3c/3x3/ -> features.stage2.unit1.branches.branch1.conv2/: as in Inception v3."""
    unit, (number, layer) = _BN_UNITS[match[1]], _BN_BRANCHES[match[2]]
    return f"{unit}.branches.branch{number - _halves(unit)}{layer}/"


BN_INCEPTION = Rules(
    SOURCE,
    TORCH,
    (
        (r"^conv1_7x7_s2/", "features.init_block.conv1/"),
        (r"^conv2_3x3_reduce/", "features.init_block.conv2.conv1/"),
        (r"^conv2_3x3/", "features.init_block.conv2.conv2/"),
        (r"^inception_(\d\w)/(\w+)/", _bn_branch),
        (r"^fc$", "output"),
        _PATH_END,
    ),
    DROPPED,
)
