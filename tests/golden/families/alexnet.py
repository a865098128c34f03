"""torchvision's AlexNet; the paper's, with groups and without; ZFNet."""

from flaxarch.convert import torchvision
from flaxarch.convert.rules import TORCH, Rules
from tests.golden.case import Case

_NO_DROPOUT = {"dropout_rate": 0.0}  # what is random cannot be compared
_OWN_NAMES = Rules("tests", TORCH, flattened=(r"fc\d",))


def _paper(network: str, *args, size: int = 227) -> Case:
    return Case(
        f"tests.golden.torch_alexnet:{network}",
        args,
        rules=_OWN_NAMES,
        fields=_NO_DROPOUT,
        evaluation=((1, size, size), (1, 97, 113)),
        training=(2, 69, 83),
    )


CASES = {
    "alexnet": Case(
        "torchvision.models:alexnet",
        rules=torchvision.ALEXNET,
        fields=_NO_DROPOUT,
        training=(2, 65, 97),
        stages={4: "features.1", 8: "features.4", 16: "features.11", 32: "features.12"},
        golden=True,
    ),
    "alexnet_2012": _paper("AlexNet2012", 2).but(golden=True, slow=True),
    "alexnet_2012_ungrouped": _paper("AlexNet2012", 1),
    "zfnet": _paper("ZFNet", size=224).but(golden=True, slow=True),
}
