"""All families' cases, merged."""

from tests.golden.case import Case
from tests.golden.families import (
    airbench,
    alexnet,
    bn_inception,
    densenet,
    dpn,
    googlenet,
    inception_resnet,
    inception_v3,
    inception_v4,
    lenet,
    mobilenet,
    nin,
    preact_resnet,
    pytorchcv,
    resnet,
    senet,
    shufflenet_v2,
    squeezenet,
    unet,
    vgg,
    xception,
)

FAMILIES = (
    resnet,
    inception_v3,
    densenet,
    senet,
    dpn,
    googlenet,
    vgg,
    unet,
    xception,
    shufflenet_v2,
    bn_inception,
    nin,
    preact_resnet,
    alexnet,
    lenet,
    inception_v4,
    inception_resnet,
    squeezenet,
    mobilenet,
    airbench,
    pytorchcv,
)
CASES: dict[str, Case] = {name: case for family in FAMILIES for name, case in family.CASES.items()}
GOLDEN = [name for name, case in CASES.items() if case.golden]
