"""Network in Network, for CIFAR-10 and for ImageNet."""

from flaxarch.convert import torchvision
from tests.golden.case import Case

_NO_DROPOUT = {"dropout_rate": 0.0}  # what is random cannot be compared

CASES = {
    "nin_cifar10": Case(
        "tests.golden.torch_nin:nin_cifar10",
        fields=_NO_DROPOUT,
        rules=torchvision.nin,
        evaluation=((2, 32, 32), (1, 29, 38)),
        training=(2, 21, 18),
        num_classes=10,
        stages={1: "output1", 2: "output2", 4: "output3"},
        golden=True,
    ),
    "nin_imagenet": Case(
        "tests.golden.torch_nin:nin_imagenet",
        fields=_NO_DROPOUT,
        rules=torchvision.nin,
        training=(2, 65, 65),
        stages={4: "output1", 8: "output2", 16: "output3", 32: "output4"},
    ),
}
