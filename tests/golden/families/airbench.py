"""The airbench networks for CIFAR-10."""

from typing import Any

from flaxarch.convert.rules import TORCH, Rules
from tests.golden.case import Case

_RULES = Rules("torch", TORCH, ((r"/", "."),), (r".*\.num_batches_tracked",))


def _case(name: str, **kwargs: Any) -> Case:
    return Case(
        f"tests.golden.torch_airbench:{name}",
        rules=_RULES,
        evaluation=((2, 32, 32), (1, 29, 38)),
        training=(4, 17, 14),
        num_classes=10,
        stages={2: "group1", 4: "group2", 8: "group3"},
        **kwargs,
    )


CASES = {
    "airbench94": _case("airbench94", golden=True),
    "airbench95": _case("airbench95"),
    "airbench96": _case("airbench96", golden=True, slow=True),
}
