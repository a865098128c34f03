"""LeNet-5: as it is usual today, as a checkpoint for MNIST has it, and of 1998."""

from typing import Any

from flaxarch.convert import torchvision
from flaxarch.convert.rules import TORCH, Rules
from tests.golden.case import Case

_MNIST: dict[str, Any] = {
    "rules": torchvision.LENET,
    "evaluation": ((3, 28, 28),),
    "training": (4, 28, 28),
    "num_classes": 10,
    "channels": 1,
}

CASES = {
    "lenet5": Case("tests.golden.torch_lenet:LeNet5", kwargs={"relu": False}, **_MNIST),
    "lenet5_relu": Case("tests.golden.torch_lenet:LeNet5", kwargs={"relu": True}, golden=True, **_MNIST),
    "lenet5_1998": Case(
        "tests.golden.torch_lenet:LeNet1998",
        rules=Rules("LeCun et al. 1998", TORCH, ((r"/", "."),)),
        evaluation=((3, 32, 32), (2, 35, 33)),
        training=(4, 32, 32),
        num_classes=10,
        channels=1,
        stages={1: "c1_output", 2: "c3_output", 4: "s4_output"},
        golden=True,
    ),
}
