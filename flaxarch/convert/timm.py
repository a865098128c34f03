"""timm's names."""

import re

from flaxarch.convert import torchvision
from flaxarch.convert.rules import TORCH, Rules
from flaxarch.models.vgg import VGG

_DROPPED = torchvision.RESNET.dropped

# Squeeze-and-excitation as an option of timm's ResNet; its deep stem is a Sequential.
SE_RESNET = Rules("timm", TORCH, ((r"^conv1_(\d)$", r"conv1.\1"), *torchvision.RESNET.modules), _DROPPED)


def _legacy_senet(*stem: tuple[str, str]) -> Rules:
    blocks = ((r"/se/", "/se_module/"), (r"^fc$", "last_linear"))
    return Rules("timm", TORCH, (*stem, *blocks, *torchvision.RESNET.modules), _DROPPED)


# The authors' Caffe networks, with pretrained-models.pytorch's names.
LEGACY_SE_RESNET = _legacy_senet((r"^(conv1|bn1)$", r"layer0.\1"))
LEGACY_SENET154 = _legacy_senet(
    (r"^bn1$", "layer0.bn3"),
    (r"^conv1_0$", "layer0.conv1"),
    (r"^conv1_1$", "layer0.bn1"),
    (r"^conv1_3$", "layer0.conv2"),
    (r"^conv1_4$", "layer0.bn2"),
    (r"^conv1_6$", "layer0.conv3"),
)


def _projection(match: re.Match[str]) -> str:
    """conv2_1/c1x1_w -> conv2_1.c1x1_w_s1: the name tells the stride."""
    return f"{match[1]}.c1x1_w_s{1 if match[1] == 'conv2_1' else 2}"


DPN = Rules(
    "timm",
    TORCH,
    (
        (r"^(conv\d_1)/c1x1_w", _projection),
        (r"^conv5_bn_ac$", "conv5_bn_ac.bn"),
        (r"^conv", "features.conv"),
        (r"/", "."),
    ),
    _DROPPED,
)


def vgg(model: VGG) -> Rules:
    """Of timm's VGGs: fc6 and fc7 are convolutions there too."""
    dense = ((r"^fc6$", "pre_logits.fc1"), (r"^fc7$", "pre_logits.fc2"), (r"^fc8$", "head.fc"))
    return Rules("timm", TORCH, (*torchvision.vgg_features(model), *dense), _DROPPED, flattened=("fc8",))


def _unit(match: re.Match[str]) -> str:
    """layer1_0 -> stages.0.blocks.0."""
    return f"stages.{int(match[1]) - 1}.blocks.{match[2]}"


PREACT_RESNET = Rules(
    "timm",
    TORCH,
    (
        (r"^conv1$", "stem.conv"),
        (r"^layer(\d+)_(\d+)", _unit),
        (r"/shortcut$", ".downsample.conv"),
        (r"^fc$", "head.fc"),
        (r"/", "."),
    ),
    _DROPPED,
    pointwise=("fc",),
)


def _xception(match: re.Match[str]) -> str:
    """block2/sepconv1 -> block2.rep.1: ReLUs count too, and the first block starts without one."""
    block, kind, number = match.groups()
    return f"{block}.rep.{3 * int(number) - 2 - (block == 'block1') + (kind == 'bn')}"


XCEPTION = Rules(
    "timm",
    TORCH,
    (
        (r"^(block\d+)/(sepconv|bn)(\d)", _xception),
        (r"/depthwise$", ".conv1"),
        (r"/", "."),
    ),
    _DROPPED,
)


# Where our modules of Inception v4 stand in timm's one Sequential: before inception_a1 come the stem's six.
_BEFORE = {"inception_a": 5, "reduction_a": 10, "inception_b": 10, "reduction_b": 18, "inception_c": 18}


def _feature(match: re.Match[str]) -> str:
    """inception_b2 -> features.12."""
    return f"features.{_BEFORE[match[1]] + int(match[2] or 0)}"


INCEPTION_V4 = Rules(
    "timm",
    TORCH,
    (
        (r"^(stem_|inception_[ab]\d/|reduction_[ab]/)(branch\d)_(\d)/", r"\1\2.\3/"),
        (r"/branch3_1/", "/branch3.1/"),  # in inception_c, the only one that is numbered so
        (r"^stem_conv([123])/", lambda match: f"features.{int(match[1]) - 1}/"),
        (r"^stem_conv4/", "features.3.conv/"),
        (r"^stem_branch", "features.4.branch"),
        (r"^stem_conv5/", "features.5.conv/"),
        (r"^(inception_[abc]|reduction_[ab])(\d?)", _feature),
        (r"/", "."),
    ),
    _DROPPED,
)
INCEPTION_RESNET = Rules(
    "timm",
    TORCH,
    (
        (r"^block35_(\d+)", lambda match: f"repeat.{int(match[1]) - 1}"),
        (r"^block17_(\d+)", lambda match: f"repeat_1.{int(match[1]) - 1}"),
        (r"^block8_10", "block8"),
        (r"^block8_(\d+)", lambda match: f"repeat_2.{int(match[1]) - 1}"),
        (r"/(branch\d)_(\d)/", r"/\1.\2/"),
        (r"/", "."),
    ),
    _DROPPED,
)
