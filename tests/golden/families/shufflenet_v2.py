"""torchvision's ShuffleNets v2."""

from flaxarch.convert import torchvision
from tests.golden.case import Case

_STAGES = {2: "conv1", 4: "maxpool", 8: "stage2", 16: "stage3", 32: "conv5"}
_NAMES = [f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")]

CASES = {
    name: Case(
        f"torchvision.models:{name}",
        rules=torchvision.SHUFFLENET_V2,
        stages=_STAGES,
        golden=name == "shufflenet_v2_x0_5",
    )
    for name in _NAMES
}
