"""SqueezeNet: torchvision's two, and the paper's simple bypass."""

from flaxarch.convert import torchvision
from tests.golden.case import Case

_STAGES = {
    "squeezenet1_0": {2: "features.1", 4: "features.5", 8: "features.10", 16: "features.12"},
    "squeezenet1_1": {2: "features.1", 4: "features.4", 8: "features.7", 16: "features.12"},
}


def _torch(name: str, builder: str = "torchvision.models") -> Case:
    return Case(
        f"{builder}:{name}",
        rules=torchvision.squeezenet,
        fields={"dropout_rate": 0.0},  # what is random cannot be compared
        stages=_STAGES[name.removesuffix("_bypass")],
        golden=True,
    )


CASES = {
    "squeezenet1_0": _torch("squeezenet1_0").but(slow=True),
    "squeezenet1_1": _torch("squeezenet1_1"),
    "squeezenet1_0_bypass": _torch("squeezenet1_0_bypass", "tests.golden.torch_squeezenet").but(slow=True),
}
