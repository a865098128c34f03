"""Squeeze-and-excitation networks."""

from flaxarch.convert import timm, torchvision
from flaxarch.convert.rules import Rules
from tests.golden.case import Case

_STAGES = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}


def _timm(name: str, rules: Rules = timm.SE_RESNET, **kwargs) -> Case:
    return Case(f"timm.models:{name}", rules=rules, stages=_STAGES, **kwargs)


def _legacy(name: str, rules: Rules = timm.LEGACY_SE_RESNET, **kwargs) -> Case:
    # its dropout is a function's, which is drawn for each call
    return _timm(name, rules, kwargs={"drop_rate": 0.0}, **kwargs)


def _cifar(depth: int) -> Case:
    return Case(
        "tests.golden.torch_senet:CifarSeResNet",
        (depth,),
        rules=torchvision.RESNET,
        evaluation=((2, 32, 32), (2, 29, 37)),
        training=(4, 32, 32),
        num_classes=10,
        stages={1: "layer1", 2: "layer2", 4: "layer3"},
    )


CASES = {
    "seresnet18": _timm("seresnet18", golden=True),
    "legacy_seresnet50": _legacy("legacy_seresnet50", golden=True, slow=True),
    **{f"seresnet{depth}": _cifar(depth) for depth in (20, 56, 110)},
    **{
        name: _timm(name)
        for name in (
            "seresnet34",
            "seresnet50",
            "seresnet101",
            "seresnet152",
            "seresnext50_32x4d",
            "seresnext101_32x4d",
            "senet154",
        )
    },
    **{
        f"legacy_{name}": _legacy(f"legacy_{name}")
        for name in ("seresnet101", "seresnet152", "seresnext50_32x4d", "seresnext101_32x4d")
    },
    "legacy_senet154": _legacy("legacy_senet154", timm.LEGACY_SENET154, fields={"dropout_rate": 0.0}),
}
