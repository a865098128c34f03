"""Pre-activation ResNets: timm's, Keras's, the paper's, and its other activations and shortcuts."""

from typing import Any

from flaxarch.convert import keras, timm, torchvision
from flaxarch.models import preact_unit
from tests.golden.case import Case

_STAGES = {2: "stem.conv", 4: "stages.0", 8: "stages.1", 16: "stages.2", 32: "norm"}


def _timm(depth: int, **kwargs: Any) -> Case:
    return Case(f"timm.models:resnetv2_{depth}", rules=timm.PREACT_RESNET, stages=_STAGES, **kwargs)


def _keras(depth: int, third_stage: int, second_stage: int = 4) -> Case:
    # the last unit of a stage halves the map
    units = {4: (2, 2), 8: (3, second_stage - 1), 16: (4, third_stage - 1)}
    stages = {stride: f"conv{i}_block{n}_out" for stride, (i, n) in units.items()}
    return Case(
        f"keras.applications:ResNet{depth}V2",
        rules=keras.PREACT_RESNET,
        stages={2: "conv1_conv", **stages, 32: "post_relu"},
    )


def _torch(*args: Any, imagenet: bool = False, **kwargs: Any) -> Case:
    return Case(
        "tests.golden.torch_preact_resnet:PreActResNet",
        args,
        {"imagenet": imagenet},
        **{
            "rules": torchvision.RESNET,
            "evaluation": ((2, 32, 32), (2, 29, 37)),
            "training": (4, 16, 8),
            "num_classes": 10,
            "stages": {1: "layer1", 2: "layer2", 4: "tail"},
        }
        | kwargs,
    )


_ROWS = {  # of Fig. 4
    "a": preact_unit.ORIGINAL,
    "b": preact_unit.BN_AFTER_ADDITION,
    "c": preact_unit.RELU_BEFORE_ADDITION,
    "d": preact_unit.RELU_ONLY_PREACT,
    "e": preact_unit.FULL_PREACT,
}
_SHORTCUTS = {  # of Fig. 2
    "identity": preact_unit.identity,
    "projection": preact_unit.projection,
    "scaling": preact_unit.constant_scaling,
    "exclusive gating": preact_unit.exclusive_gating,
    "shortcut-only gating": preact_unit.shortcut_only_gating,
    "conv": preact_unit.convolution,
}


def _small(row: str, shortcut: str, bottleneck: bool = False) -> Case:
    """Two units a stage, in one of the paper's forms."""
    fields = {"stage_sizes": (2, 2, 2), "activation": _ROWS[row], "shortcut": _SHORTCUTS[shortcut]}
    base = "preact_resnet164" if bottleneck else "preact_resnet110"
    return _torch((2, 2, 2), bottleneck, row, shortcut, row=base, fields=fields)


CASES = {
    "resnetv2_18": _timm(18, golden=True),
    **{f"resnetv2_{depth}": _timm(depth) for depth in (34, 50, 101, 152)},
    "resnet50v2_keras": _keras(50, 6).but(golden=True, slow=True),
    "resnet101v2_keras": _keras(101, 23),
    "resnet152v2_keras": _keras(152, 36, 8),
    "preact_resnet110": _torch((18, 18, 18), False, "e", "identity"),
    "preact_resnet164": _torch((18, 18, 18), True),
    "preact_resnet1001": _torch(
        (111, 111, 111), True, fields={"scan": True}
    ),  # unrolled: over 22 GB to compile
    "preact_resnet200": _torch(
        (3, 24, 36, 3),
        True,
        imagenet=True,
        evaluation=((1, 224, 224), (1, 97, 113)),
        training=(4, 65, 65),
        num_classes=1000,
        stages={},
    ),
    "preact_resnet20": _small("e", "projection", bottleneck=True).but(golden=True),
    **{f"preact_resnet14, activation {row}": _small(row, "identity") for row in _ROWS},
    **{
        f"preact_resnet14, {shortcut}": _small("a", shortcut)
        for shortcut in _SHORTCUTS
        if shortcut != "identity"
    },
}
