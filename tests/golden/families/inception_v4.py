"""Inception v4: timm's."""

from flaxarch.convert import timm
from tests.golden.case import Case

CASES = {
    "inception_v4": Case(
        "timm.models:inception_v4",
        rules=timm.INCEPTION_V4,
        evaluation=((1, 299, 299), (1, 97, 113)),
        training=(3, 107, 107),
        stages={2: "features.2", 4: "features.4", 8: "features.9", 16: "features.17", 32: "features.21"},
        golden=True,
        slow=True,
    ),
}
