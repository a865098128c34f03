"""What a shortcut may be: anything but the identity is in the way."""

from functools import partial

from benchmarks.claims.claim import Check, Claim
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL
from benchmarks.claims.statements._units import Forms, draw, measure
from flaxarch.models import preact_unit as unit

FORMS: Forms = {
    "identity": {"activation": unit.ORIGINAL},
    "half of both": {"activation": unit.ORIGINAL, "shortcut": unit.constant_scaling},
    "gated": {
        "activation": unit.ORIGINAL,
        "shortcut": partial(unit.shortcut_only_gating, bias=0.0),
    },
    "1x1": {"activation": unit.ORIGINAL, "shortcut": unit.convolution},
    "dropout": {"activation": unit.ORIGINAL, "shortcut": unit.dropout_shortcut},
}
OTHERS = [name for name in FORMS if name != "identity"]

_claim = partial(
    Claim,
    "A shortcut that scales, gates, convolves or drops what it carries trains worse than the identity.",
    "He et al. 2016b, Sec. 3.1 and Table 1",
    needs=("cifar10",),
    x="share of the training, %",
    y="training loss, nats",
    draw=draw,
)
CLAIM = _claim(
    protocol="Networks of 32 layers with the units of 2015, where the paper's have 110. The gate is the "
    f"shortcut's alone, and starts at one half. {SMALL.in_words} The training loss is the mean over the last "
    "tenth of the steps, or that of guessing where it is larger.",
    measure=partial(measure, forms=FORMS, depth=32, scale=SMALL),
    checks=tuple(Check(f"training loss, {name}", 0.0, minus="training loss, identity") for name in OTHERS),
    seeds=3,
    calibrated="that the loss of training decides, in place of the test error.",
)
FULL = _claim(
    protocol=f"Networks of 110 layers. {FULL_SCALE.in_words} The paper warms ResNet-110 up at "
    "a rate of 0.01.",
    measure=partial(measure, forms=FORMS, depth=110, scale=FULL_SCALE),
    checks=tuple(Check(f"test error, {name}", 1.0, minus="test error, identity") for name in OTHERS),
    seeds=5,
    tier="G",
    calibrated="a margin of one point; the paper's errors are 12.35, 12.86, 12.22 and over 20 against "
    "6.61 %.",
)
