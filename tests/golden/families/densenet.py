"""DenseNets for ImageNet and for CIFAR."""

from flaxarch.convert import keras, torchvision
from tests.golden.case import Case

_STAGES = {2: "features.relu0", **{2 ** (i + 1): f"features.denseblock{i}" for i in (1, 2, 3)}}
_KERAS_STAGES = {2: "conv1_relu", 32: "relu"}


def _torchvision(name: str, *args, **kwargs) -> Case:
    return Case(f"torchvision.models:{name}", args, rules=torchvision.DENSENET, stages=_STAGES, **kwargs)


def _keras(depth: int, third_block: int) -> Case:
    stages = {2 ** (i + 1): f"conv{i + 1}_block{n}_concat" for i, n in ((1, 6), (2, 12), (3, third_block))}
    return Case(f"keras.applications:DenseNet{depth}", rules=keras.DENSENET, stages=_KERAS_STAGES | stages)


def _cifar(depth: int, growth_rate: int, bc: bool) -> Case:
    return Case(
        "tests.golden.torch_densenet:CifarDenseNet",
        (depth, growth_rate, bc),
        rules=torchvision.DENSENET,
        evaluation=((2, 32, 32), (2, 29, 37)),
        training=(4, 12, 8),
        num_classes=10,
        stages={1: "features.denseblock1", 2: "features.denseblock2", 4: "features.relu5"},
    )


CASES = {
    "densenet121, shallow": _torchvision(
        "DenseNet", 32, (2, 3, 2, 2), row="densenet121", fields={"block_sizes": (2, 3, 2, 2)}, golden=True
    ),
    "densenet121": _torchvision("densenet121", golden=True, slow=True),
    "densenet161": _torchvision("densenet161"),
    "densenet169": _torchvision("densenet169"),
    "densenet201": _torchvision("densenet201"),
    "densenet264": _torchvision("DenseNet", 32, (6, 12, 64, 48)),
    "densenet121_keras": _keras(121, 24),
    "densenet169_keras": _keras(169, 32),
    "densenet201_keras": _keras(201, 48),
    "densenet_40_12": _cifar(40, 12, bc=False).but(golden=True, slow=True),
    "densenet_100_12": _cifar(100, 12, bc=False),
    "densenet_100_24": _cifar(100, 24, bc=False),
    "densenet_bc_100_12": _cifar(100, 12, bc=True),
    "densenet_bc_250_24": _cifar(250, 24, bc=True),
    "densenet_bc_190_40": _cifar(190, 40, bc=True),
}
