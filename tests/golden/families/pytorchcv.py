"""pytorchcv's networks, under our rows: its heads average a map of 7x7, 8x8 or 10x10 only."""

from typing import Any

from flaxarch.convert import pytorchcv, pytorchcv_inception
from tests.golden.case import Case

_NO_DROPOUT = {"dropout_rate": 0.0}  # what is random cannot be compared
_IMAGENET: dict[str, Any] = {"evaluation": ((1, 224, 224), (1, 197, 211)), "training": (2, 193, 193)}
_CIFAR: dict[str, Any] = {
    "evaluation": ((2, 32, 32), (2, 29, 31)),
    "training": (4, 32, 32),
    "num_classes": 10,
}
_DENSE = {"evaluation": ((2, 32, 32), (2, 33, 35))}  # whose transitions round down
_299: dict[str, Any] = {"evaluation": ((1, 299, 299), (1, 303, 311)), "training": (1, 299, 299)}


def _case(row: str, builder: str, rules: Any, sizes: dict[str, Any] = _IMAGENET, **kwargs: Any) -> Case:
    return Case(f"pytorchcv.models.{builder}", row=row, rules=rules, **sizes | kwargs)


def _shallow_senet154() -> Case:
    """One block a stage, of the same widths."""
    kwargs = {
        "channels": [[256], [512], [1024], [2048]],
        "init_block_channels": 128,
        "cardinality": 64,
        "bottleneck_width": 4,
    }
    fields = {"stage_sizes": (1, 1, 1, 1)}
    return _case("senet154", "senet:SENet", pytorchcv.SENET154, kwargs=kwargs, fields=fields)


def _narrow_vgg(row: str, *stage_sizes: int, **kwargs: Any) -> Case:
    """Of widths that leave fc6, which only takes a map of 7x7, a tenth of its weights."""
    widths = (8, 16, 32, 64, 64)
    kwargs |= {"channels": [[width] * n for width, n in zip(widths, stage_sizes, strict=True)]}
    return _case(
        row,
        "vgg:VGG",
        pytorchcv.vgg,
        kwargs=kwargs,
        fields=_NO_DROPOUT | {"widths": widths},
        evaluation=((1, 224, 224), (1, 231, 245)),
        training=(2, 224, 224),
    )


_SMALLER = {
    "senet154, shallow": _shallow_senet154(),
    "vgg11, narrow in pytorchcv": _narrow_vgg("vgg11", 1, 1, 2, 2, 2),
    "vgg16_bn, narrow in pytorchcv": _narrow_vgg("vgg16_bn", 2, 2, 3, 3, 3, use_bn=True),
}
_LIBRARY = (
    _case("resnet18", "resnet:resnet18", pytorchcv.RESNET),
    _case("resnet50_v1", "resnet:resnet50", pytorchcv.RESNET),
    _case("resnet50", "resnet:resnet50b", pytorchcv.RESNET),
    _case("resnext50_32x4d", "resnext:resnext50_32x4d", pytorchcv.RESNET),
    _case("seresnet50_v1", "seresnet:seresnet50", pytorchcv.RESNET),
    _case("seresnet50", "seresnet:seresnet50b", pytorchcv.RESNET),
    _case("seresnext50_32x4d", "seresnext:seresnext50_32x4d", pytorchcv.RESNET),
    *(
        _case(f"resnet{depth}_b", f"resnet_cifar:resnet{depth}_cifar10", pytorchcv.CIFAR_RESNET, _CIFAR)
        for depth in (20, 56, 110)
    ),
    _case("resnet164_b", "resnet_cifar:resnet164bn_cifar10", pytorchcv.CIFAR_RESNET, _CIFAR),
    _case("seresnet20_b", "seresnet_cifar:seresnet20_cifar10", pytorchcv.CIFAR_RESNET, _CIFAR),
    _case("seresnet56_b", "seresnet_cifar:seresnet56_cifar10", pytorchcv.CIFAR_RESNET, _CIFAR),
    _case("resnext29_32x4d", "resnext_cifar:resnext29_32x4d_cifar10", pytorchcv.CIFAR_RESNET, _CIFAR),
    _case(
        "resnext29_16x64d",
        "resnext_cifar:resnext29_16x64d_cifar10",
        pytorchcv.CIFAR_RESNET,
        _CIFAR,
        training=(2, 32, 32),
    ),
    _case(
        "preact_resnet20_pytorchcv", "preresnet_cifar:preresnet20_cifar10", pytorchcv.PREACT_RESNET, _CIFAR
    ),
    _case(
        "preact_resnet56_pytorchcv", "preresnet_cifar:preresnet56_cifar10", pytorchcv.PREACT_RESNET, _CIFAR
    ),
    _case(
        "preact_resnet164_pytorchcv",
        "preresnet_cifar:preresnet164bn_cifar10",
        pytorchcv.PREACT_RESNET,
        _CIFAR,
    ),
    *(
        _case(f"wrn_{size}", f"wrn_cifar:wrn{size}_cifar10", pytorchcv.PREACT_RESNET, _CIFAR)
        for size in ("16_10", "28_10", "40_8")
    ),
    _case(
        "densenet121",
        "densenet:densenet121",
        pytorchcv.DENSENET,
        evaluation=((1, 224, 224), (1, 227, 241)),
        training=(2, 221, 225),
    ),
    *(
        _case(
            f"densenet_bc_{depth}_12",
            f"densenet_cifar:densenet{depth}_k12_bc_cifar10",
            pytorchcv.CIFAR_DENSENET,
            _CIFAR | _DENSE,
        )
        for depth in (40, 100)
    ),
    _case("dpn68", "dpn:dpn68", pytorchcv.DPN),
    _case(
        "alexnet",
        "alexnet:alexnetb",
        pytorchcv.ALEXNET,
        fields=_NO_DROPOUT,
        evaluation=((1, 224, 224), (1, 223, 225)),  # of less, its pools have partly filled windows
        training=(2, 224, 224),
    ),
    _case(
        "vgg11",
        "vgg:vgg11",
        pytorchcv.vgg,
        fields=_NO_DROPOUT,
        evaluation=((1, 224, 224), (1, 231, 245)),
        training=(1, 224, 224),
    ),
    *(
        _case(
            f"squeezenet{version}",
            f"squeezenet:squeeze{kind}_v{version}",
            pytorchcv.squeezenet,
            fields=_NO_DROPOUT,
            evaluation=((1, 224, 224), (1, 217, 221)),
            training=(2, 217, 221),
        ).but(row=f"squeezenet{version}{suffix}")
        for version in ("1_0", "1_1")
        for kind, suffix in (("net", ""), ("resnet", "_bypass"))
    ),
    _case("nin_cifar10_pytorchcv", "nin_cifar:nin_cifar10", pytorchcv.NIN, _CIFAR, fields=_NO_DROPOUT),
    _case("mobilenet_025", "mobilenet:mobilenet_wd4", pytorchcv.MOBILENET),
    _case("mobilenet_100_paper", "mobilenet:mobilenet_w1", pytorchcv.MOBILENET),
    _case(
        "xception",
        "xception:xception",
        pytorchcv.XCEPTION,
        evaluation=((1, 299, 299), (1, 297, 301)),
        training=(1, 295, 295),
    ),
    _case(
        "bn_inception",
        "bninception:bninception",
        pytorchcv_inception.BN_INCEPTION,
        evaluation=((1, 224, 224), (1, 223, 224)),  # the only sizes that it takes
        training=(2, 224, 223),
    ),
    _case(
        "inception_v3_no_aux",
        "inceptionv3:inceptionv3",
        pytorchcv_inception.INCEPTION_V3,
        _299,
        fields=_NO_DROPOUT,
    ),
    _case("inception_v4", "inceptionv4:inceptionv4", pytorchcv_inception.INCEPTION_V4, _299),
    _case(
        "inception_resnet_v2",
        "inceptionresnetv2:inceptionresnetv2",
        pytorchcv_inception.INCEPTION_RESNET,
        _299,
    ),
)
CASES = _SMALLER | {
    case.row if case.row.endswith("_pytorchcv") else f"{case.row}, pytorchcv": case for case in _LIBRARY
}
