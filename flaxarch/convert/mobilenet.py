"""The names that each source has for the layers of the MobileNets."""

import re
from collections.abc import Callable
from itertools import groupby

from flaxarch.convert import torchvision
from flaxarch.convert.rules import KERAS, TORCH, Rules
from flaxarch.models.mobilenet import STAGES
from flaxarch.models.mobilenet_v2 import InvertedResiduals, MobileNetV2
from flaxarch.models.mobilenet_v3 import MobileNetV3

_DROPPED = torchvision.RESNET.dropped


def _torch(source: str, names: dict[str, str], pointwise: tuple[str, ...] = ()) -> Rules:
    """Rules that are a table of all modules."""

    def name(match: re.Match[str]) -> str:
        return names.get(match[0], match[0])

    return Rules(source, TORCH, ((r".+", name),), _DROPPED, pointwise=pointwise)


def _units(model: InvertedResiduals) -> list[list[str]]:
    """The units of each block, in order."""
    return [
        ["expand"] * block.has_expansion
        + ["depthwise"]
        + ["squeeze_excite"] * block.squeeze_excite
        + ["project"]
        for block in model.blocks()
    ]


def _torchvision(model: InvertedResiduals, sequence: str) -> dict[str, str]:
    """features.NUMBER is the stem, a block or the last convolution; a block's units are numbered."""
    blocks = _units(model)
    units = {"stem": "features.0", "last": f"features.{len(blocks) + 1}"}
    for number, block in enumerate(blocks, start=1):
        for place, unit in enumerate(block):
            units[f"block{number}/{unit}"] = f"features.{number}.{sequence}.{place}"
    layers = {"conv": "0", "bn": "1", "fc1": "fc1", "fc2": "fc2"}
    return {
        f"{unit}/{ours}": f"{name}.{theirs}"
        for unit, name in units.items()
        for ours, theirs in layers.items()
    }


def torchvision_v2(model: MobileNetV2) -> Rules:
    """Of torchvision's MobileNetV2: a block's last two layers are not in a Sequential of their own."""
    names = _torchvision(model, "conv") | {"classifier": "classifier.1"}
    for number, block in enumerate(_units(model), start=1):
        for i, layer in enumerate(("conv", "bn"), start=len(block) - 1):
            names[f"block{number}/project/{layer}"] = f"features.{number}.conv.{i}"
    return _torch("torchvision", names)


def torchvision_v3(model: MobileNetV3) -> Rules:
    """Of torchvision's MobileNetV3s."""
    names = {"hidden": "classifier.0", "classifier": "classifier.3"}
    return _torch("torchvision", _torchvision(model, "block") | names)


def _timm(stages: list[list[list[str]]]) -> dict[str, str]:
    """blocks.STAGE.PLACE, for stages of blocks of units: the norms are numbered in each block.

    A block's 1x1 convolutions are conv_pw and conv_pwl; where it has but one, that is conv_pw.
    """
    names = {"stem/conv": "conv_stem", "stem/bn": "bn1", "classifier": "classifier"}
    number = 0
    for i, stage in enumerate(stages):
        for j, units in enumerate(stage):
            number += 1
            ours, theirs = f"block{number}", f"blocks.{i}.{j}"
            convs = {"depthwise": "conv_dw", "expand": "conv_pw", "pointwise": "conv_pw"}
            convs["project"] = "conv_pwl" if "expand" in units else "conv_pw"
            names[f"{ours}/squeeze_excite/fc1"] = f"{theirs}.se.conv_reduce"
            names[f"{ours}/squeeze_excite/fc2"] = f"{theirs}.se.conv_expand"
            for n, unit in enumerate((unit for unit in units if unit in convs), start=1):
                names[f"{ours}/{unit}/conv"] = f"{theirs}.{convs[unit]}"
                names[f"{ours}/{unit}/bn"] = f"{theirs}.bn{n}"
    return names


TIMM = _torch("timm", _timm([[["depthwise", "pointwise"]] * num_blocks for _, _, num_blocks in STAGES]))


def timm_v2(model: MobileNetV2) -> Rules:
    """Of timm's MobileNetV2s."""
    units = iter(_units(model))
    names = _timm([[next(units) for _ in range(size)] for size in model.stage_sizes])
    return _torch("timm", names | {"last/conv": "conv_head", "last/bn": "bn2"})


def timm_v3(model: MobileNetV3) -> Rules:
    """Of timm's MobileNetV3s: a stage is the blocks of as many features, before these are scaled."""
    units = iter(_units(model))
    stages = [[next(units) for _ in rows] for _, rows in groupby(model.rows, key=lambda row: row.features)]
    last = f"blocks.{len(stages)}.0"
    names = _timm(stages) | {"last/conv": f"{last}.conv", "last/bn": f"{last}.bn1", "hidden": "conv_head"}
    return _torch("timm", names, pointwise=("hidden",))


# biubug6/Pytorch_Retinaface's MobileNet of multiplier 0.25: three stages; layers and ReLUs are numbered.
_STARTS = {"stage1": 0, "stage2": 6, "stage3": 12}
_PLACES = {
    number: f"{stage}.{number - start}"
    for stage, start in _STARTS.items()
    for number in range(start, min(start + 6, 14))
}
RETINAFACE = Rules(
    "Pytorch_Retinaface",
    TORCH,
    (
        (r"^stem/", "block0/depthwise/"),
        (r"^block(\d+)", lambda match: _PLACES[int(match[1])]),
        (r"/depthwise/conv$", ".0"),
        (r"/depthwise/bn$", ".1"),
        (r"/pointwise/conv$", ".3"),
        (r"/pointwise/bn$", ".4"),
        (r"^classifier$", "fc"),
    ),
    _DROPPED,
)


def _keras(
    *modules: tuple[str, str | Callable[[re.Match[str]], str]], pointwise: tuple[str, ...] = ()
) -> Rules:
    return Rules("Keras", KERAS, modules, pointwise=pointwise, depthwise=(r".*/depthwise/conv",))


KERAS_V1 = _keras(
    (r"^stem/conv$", "conv1"),
    (r"^stem/bn$", "conv1_bn"),
    (r"^block(\d+)/depthwise/", r"conv_dw_\1/"),
    (r"^block(\d+)/pointwise/", r"conv_pw_\1/"),
    (r"/conv$", ""),
    (r"/bn$", "_bn"),
    (r"^classifier$", "conv_preds"),
    pointwise=("classifier",),
)


def _from_zero(match: re.Match[str]) -> str:
    """block1 -> block0: Keras's first block stands apart, and has no number."""
    return f"block{int(match[1]) - 1}/"


KERAS_V2 = _keras(
    (r"^stem/conv$", "Conv1"),
    (r"^stem/bn$", "bn_Conv1"),
    (r"^last/conv$", "Conv_1"),
    (r"^last/bn$", "Conv_1_bn"),
    (r"^classifier$", "predictions"),
    (r"^block(\d+)/", _from_zero),
    (r"^block0/", "expanded_conv_"),
    (r"^block(\d+)/", r"block_\1_"),
    (r"/conv$", ""),
    (r"/bn$", "_BN"),
)
KERAS_V3 = _keras(
    (r"^stem/conv$", "conv"),
    (r"^stem/bn$", "conv_bn"),
    (r"^last/conv$", "conv_1"),
    (r"^last/bn$", "conv_1_bn"),
    (r"^hidden$", "conv_2"),
    (r"^classifier$", "logits"),
    (r"^block(\d+)/", _from_zero),
    (r"^block0/", "expanded_conv_"),
    (r"^block(\d+)/", r"expanded_conv_\1_"),
    (r"/conv$", ""),
    (r"/bn$", "_bn"),
    (r"/fc1$", "_conv"),
    (r"/fc2$", "_conv_1"),
    pointwise=("hidden", "classifier"),
)
