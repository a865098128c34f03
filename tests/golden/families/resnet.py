"""ResNets, their wide, aggregated and dilated forms, and the plain networks."""

from flaxarch.convert import keras, torchvision
from flaxarch.convert.rules import TORCH, Rules
from flaxarch.models.resnet import avg_pool_projection, deep_stem
from tests.golden.case import Case

# timm's ResNet-D: its stem is a Sequential, and in its shortcut's a pool comes first.
_TIMM_RESNET_D = Rules(
    "timm",
    TORCH,
    (
        (r"^conv1_(\d)", r"conv1.\1"),
        (r"^layer(\d+)_(\d+)", r"layer\1.\2"),
        (r"downsample_conv$", "downsample.1"),
        (r"downsample_bn$", "downsample.2"),
        (r"/", "."),
    ),
    torchvision.RESNET.dropped,
)

_STAGES = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}
_CIFAR_STAGES = {1: "layer1", 2: "layer2", 4: "layer3"}
_CIFAR_SIZES = {
    "evaluation": ((2, 32, 32), (2, 29, 37)),
    "training": (4, 32, 32),
    "num_classes": 10,
    "stages": _CIFAR_STAGES,
}


def _torchvision(name: str, **kwargs) -> Case:
    return Case(f"torchvision.models:{name}", rules=torchvision.RESNET, stages=_STAGES, **kwargs)


def _dilated(output_stride: int) -> Case:
    return Case(
        "tests.golden.torch_residual:dilated_resnet50",
        (output_stride,),
        row="resnet50",
        fields={"output_stride": output_stride},
        rules=torchvision.RESNET,
        evaluation=((1, 97, 113),),
    )


def _resnet_d(depth: int) -> Case:
    return Case(
        f"timm.models:resnet{depth}d",
        row=f"resnet{depth}",
        fields={"stem": deep_stem, "shortcut": avg_pool_projection},
        rules=_TIMM_RESNET_D,
        evaluation=((1, 97, 113),),
    )


def _keras(depth: int, third_stage: int, second_stage: int = 4) -> Case:
    sizes = (3, second_stage, third_stage, 3)
    stages = {2 ** (i + 1): f"conv{i + 1}_block{n}_out" for i, n in enumerate(sizes, start=1)}
    return Case(f"keras.applications:ResNet{depth}", rules=keras.RESNET, stages=stages)


def _cifar(network: str, *args, rules: Rules = torchvision.CIFAR_RESNET, **kwargs) -> Case:
    return Case(f"tests.golden.torch_residual:{network}", args, rules=rules, **_CIFAR_SIZES | kwargs)


CASES = {
    "resnet18": _torchvision("resnet18", golden=True, slow=True),
    "resnet50": _torchvision("resnet50", golden=True, slow=True),
    "resnext50_32x4d": _torchvision("resnext50_32x4d", golden=True, slow=True, lax=True),
    "wide_resnet50_2": _torchvision("wide_resnet50_2"),
    **{
        name: _torchvision(name)
        for name in (
            "resnet34",
            "resnet101",
            "resnet152",
            "resnext101_32x8d",
            "resnext101_64x4d",
            "wide_resnet101_2",
        )
    },
    "resnet50, output stride 8": _dilated(8).but(golden=True, slow=True),
    "resnet50, output stride 16": _dilated(16),
    "resnet18d": _resnet_d(18),
    "resnet50d": _resnet_d(50).but(golden=True, slow=True),
    "resnet50_keras": _keras(50, 6).but(golden=True, slow=True),
    "resnet101_keras": _keras(101, 23),
    "resnet152_keras": _keras(152, 36, 8),
    "plain18": Case(
        "tests.golden.torch_residual:plain_resnet", ([2, 2, 2, 2],), rules=torchvision.RESNET, stages=_STAGES
    ),
    "plain34": Case(
        "tests.golden.torch_residual:plain_resnet", ([3, 4, 6, 3],), rules=torchvision.RESNET, stages=_STAGES
    ),
    **{f"resnet{depth}": _cifar("CifarResNet", depth) for depth in (20, 32, 44, 56, 110)},
    "resnet20": _cifar("CifarResNet", 20, golden=True),
    **{f"resnet{depth}_b": _cifar("CifarResNet", depth, "B") for depth in (20, 56, 110)},
    **{f"plain{depth}": _cifar("CifarResNet", depth, "none") for depth in (20, 56)},
    # what is random in training cannot be compared
    "resnet110_sd": _cifar("CifarResNet", 110, "pool", fields={"survival_prob": 1.0}),
    "wrn_16_4": _cifar("WideResNet", 16, 4, rules=torchvision.RESNET, golden=True),
    "wrn_16_8": _cifar("WideResNet", 16, 8, rules=torchvision.RESNET),
    "wrn_28_10": _cifar("WideResNet", 28, 10, rules=torchvision.RESNET),
    "wrn_40_4": _cifar("WideResNet", 40, 4, rules=torchvision.RESNET),
    "resnext29_8x64d": _cifar(
        "CifarResNext", 8, 64, rules=torchvision.RESNET, golden=True, training=(4, 8, 12)
    ),
}
