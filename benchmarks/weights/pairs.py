"""The pairs of a family and a library whose files are read: the cases of `tests/golden` and a few more."""

from types import ModuleType
from typing import NamedTuple

import flaxarch
from flaxarch.convert import mobilenet, torchvision
from flaxarch.registry import FAMILIES
from tests.golden.case import Case, Size
from tests.golden.families.every import CASES

LIBRARIES = {"torchvision": "torchvision", "timm": "timm", "keras": "Keras", "pytorchcv": "pytorchcv"}

# timm's networks under torchvision's names, and Keras's under timm's: the golden files are of the originals.
_TIMM = {
    "resnet18, timm": Case("timm.models:resnet18", row="resnet18", rules=torchvision.RESNET),
    "resnet50, timm": Case("timm.models:resnet50", row="resnet50", rules=torchvision.RESNET),
    "resnext101_32x4d, timm": Case(
        "timm.models:resnext101_32x4d", row="resnext101_32x4d", rules=torchvision.RESNET
    ),
    "densenet121, timm": Case("timm.models:densenet121", row="densenet121", rules=torchvision.DENSENET),
    **{
        f"tf_mobilenetv3_{size}": Case(
            f"timm.models.mobilenetv3:tf_mobilenetv3_{size}",
            row=f"mobilenet_v3_{row}_keras",
            rules=mobilenet.timm_v3,
        )
        for size, row in {
            "small_075": "small_075",
            "small_100": "small",
            "small_minimal_100": "small_minimalistic",
            "large_075": "large_075",
            "large_100": "large",
            "large_minimal_100": "large_minimalistic",
        }.items()
    },
}

# A case whose network differs from its row in other fields has no files of its own.
_HARMLESS = {"dropout_rate", "aux_dropout_rate", "survival_prob", "fully_convolutional"}


class Pair(NamedTuple):
    """One network of a library, and the row that its files are to be read as."""

    name: str  # "timm legacy_xception"
    family: str
    library: str
    row: str
    case: Case
    in_every_format: bool  # the smallest of its family, library and table of rules; others in one format

    @property
    def size(self) -> Size:
        """Of the images: the smallest of the golden files', but of 7x7 maps where the head slides."""
        if self.case.fields.get("fully_convolutional"):
            return self.case.evaluation[0]
        return min(self.case.evaluation, key=lambda size: size[1] * size[2])


def family_of(row: str) -> ModuleType:
    """The module that has the row."""
    return next(family for family in FAMILIES if row in family.VARIANTS)


def pairs() -> dict[str, Pair]:
    """All pairs by name, family by family, each library's smallest network first."""
    found: dict[str, Pair] = {}
    complete = set()
    cases = [(case.row or name, case) for name, case in (CASES | _TIMM).items() if _is_plain(case)]
    cases.sort(key=lambda x: (FAMILIES.index(family_of(x[0])), flaxarch.published(x[0]).num_params))
    for row, case in cases:
        family = family_of(row).__name__.rpartition(".")[2]
        library = LIBRARIES[case.builder.partition(":")[0].partition(".")[0]]
        name = f"{library} {_network(case)}"
        group = (family, library, id(case.rules))
        found[name] = Pair(name, family, library, row, case, group not in complete)
        complete.add(group)
    return found


def _is_plain(case: Case) -> bool:
    package = case.builder.partition(":")[0].partition(".")[0]
    return package in LIBRARIES and not case.args and case.fields.keys() <= _HARMLESS


def _network(case: Case) -> str:
    """The builder and the arguments that decide the network."""
    kwargs = {
        key: x
        for key, x in case.kwargs.items()
        if key not in ("init_weights", "drop_rate", "include_preprocessing", "pretrained")
    }
    given = ", ".join(f"{key}={x}" for key, x in kwargs.items())
    builder = case.builder.partition(":")[2]
    return f"{builder}({given})" if given else builder
