"""VGG: torchvision's, timm's, Keras's, the paper's A-LRN and C, and the CIFAR form."""

from flaxarch.convert import keras, timm, torchvision
from tests.golden.case import Case

_NO_DROPOUT = {"dropout_rate": 0.0}  # what is random cannot be compared
_TRAINING = (2, 33, 47)  # 138M parameters in float64, and their gradients
_STAGES = {
    1: "features.1",
    2: "features.4",
    4: "features.9",
    8: "features.14",
    16: "features.19",
    32: "features.20",
}


def _torch(name: str, builder: str = "torchvision.models", **kwargs) -> Case:
    rules = torchvision.vgg
    return Case(f"{builder}:{name}", rules=rules, fields=_NO_DROPOUT, training=_TRAINING, **kwargs)


def _timm(name: str) -> Case:
    """timm's head slides over maps larger than 7x7, as the paper's does."""
    return Case(
        f"timm.models:{name}",
        row=name,
        fields=_NO_DROPOUT | {"fully_convolutional": True},
        rules=timm.vgg,
        evaluation=((1, 224, 224), (1, 97, 273)),
        training=_TRAINING,
    )


def _keras(depth: int, *stage_sizes: int) -> Case:
    stages = {2**i: f"block{i + 1}_conv{size}" for i, size in enumerate(stage_sizes)}
    return Case(
        f"keras.applications:VGG{depth}",
        rules=keras.VGG,
        evaluation=((1, 224, 224),),  # its dense head takes no other size
        training=(2, 224, 224),
        stages=stages | {32: "block5_pool"},
    )


CASES = {
    "vgg11": _torch("vgg11", stages=_STAGES, golden=True, slow=True),
    "vgg11, narrow": Case(  # what the default tests run, of all but the width
        "tests.golden.torch_vgg:narrow_vgg11",
        row="vgg11",
        fields=_NO_DROPOUT | {"widths": (8, 16, 32, 64, 64), "hidden_sizes": (32, 32)},
        rules=torchvision.vgg,
        stages=_STAGES,
        golden=True,
    ),
    **{
        name: _torch(name)
        for name in ("vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")
    },
    "vgg11_lrn": _torch("vgg11_lrn", "tests.golden.torch_vgg"),
    "vgg16_c": _torch("vgg16_c", "tests.golden.torch_vgg"),
    "vgg11, timm": _timm("vgg11").but(golden=True, slow=True),
    "vgg16_bn, timm": _timm("vgg16_bn"),
    "vgg16_keras": _keras(16, 2, 2, 3, 3, 3).but(golden=True, slow=True),
    "vgg19_keras": _keras(19, 2, 2, 4, 4, 4),
    "vgg16_bn_cifar": Case(
        "tests.golden.torch_vgg:Vgg16Cifar",
        rules=torchvision.vgg,
        evaluation=((2, 32, 32), (2, 35, 57)),
        training=(4, 32, 32),
        num_classes=10,
        golden=True,
    ),
}
