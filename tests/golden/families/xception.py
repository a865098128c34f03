"""Xceptions."""

from flaxarch.convert import keras, timm
from tests.golden.case import Case

_SIZES = {"evaluation": ((1, 299, 299), (1, 97, 113)), "training": (2, 95, 71)}

CASES = {
    "xception": Case(
        "timm.models:legacy_xception",
        rules=timm.XCEPTION,
        stages={2: "act2", 4: "block1", 8: "block2", 16: "block11", 32: "act4"},
        golden=True,
        **_SIZES,
    ),
    "xception_keras": Case(
        "keras.applications:Xception",
        rules=keras.XCEPTION,
        stages={2: "block1_conv2_act", 16: "add_10", 32: "block14_sepconv2_act"},
        golden=True,
        slow=True,
        **_SIZES,
    ),
}
