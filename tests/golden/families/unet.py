"""U-Nets: the paper's and the padded ones against torch modules after the paper, and one over a ResNet-18."""

from flaxarch.convert import segmentation
from tests.golden.case import Case

_THIN = (8, 12, 16, 20, 24)  # whose maps of logits, and so golden files, are as large as wide ones'
_UNET, _OVER = "tests.golden.torch_unet:UNet", "tests.golden.torch_unet:UNetResNet18"


def _case(padding: int, bn: bool, channels: int, **changes) -> Case:
    kwargs = {"channels": channels, "padding": padding, "bn": bn}
    case = Case(_UNET, kwargs=kwargs, rules=segmentation.PYTORCH_UNET, num_classes=2, channels=channels)
    return case.but(fields={"dropout_rate": 0.0}, **changes)


def _thin(case: Case, row: str) -> Case:
    kwargs = case.kwargs | {"widths": _THIN}
    stages = {2**i: f"taken.{i}" for i in range(len(_THIN))}
    return case.but(
        kwargs=kwargs, fields=case.fields | {"widths": _THIN}, row=row, stages=stages, golden=True
    )


_VALID = {"training": (2, 188, 204)}
_SAME = {"training": (2, 32, 48)}

CASES = {
    "unet": _case(0, False, 1, evaluation=((1, 572, 572), (1, 204, 188)), **_VALID),
    "unet, thin": _thin(_case(0, False, 1, evaluation=((1, 204, 188), (1, 188, 220)), **_VALID), "unet"),
    "unet_same": _case(1, False, 1, evaluation=((1, 512, 512), (1, 97, 113)), **_SAME),
    "unet_same_bn": _case(1, True, 3, evaluation=((1, 512, 512), (1, 97, 113)), **_SAME),
    "unet_same_bn, thin": _thin(
        _case(1, True, 3, evaluation=((1, 32, 32), (1, 37, 45)), **_SAME), "unet_same_bn"
    ),
    "unet_resnet18": Case(
        _OVER,
        kwargs={"num_classes": 5},
        rules=segmentation.SEGMENTATION_MODELS,
        num_classes=5,  # of one class, the cross-entropy would be zero
        training=(2, 64, 96),
    ),
    "unet_resnet18, small": Case(
        _OVER,
        kwargs={"num_classes": 2},
        row="unet_resnet18",
        rules=segmentation.SEGMENTATION_MODELS,
        num_classes=2,
        evaluation=((1, 32, 32), (1, 33, 47)),
        training=(3, 64, 33),
        stages={2: "decoder.blocks.3.conv2", 32: "encoder.layer4"},
        golden=True,
    ),
}
