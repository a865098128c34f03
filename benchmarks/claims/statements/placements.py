"""Where activations stand: best ahead of the convolutions, with nothing behind the sum."""

from functools import partial

from benchmarks.claims.claim import Check, Claim
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL
from benchmarks.claims.statements._units import Forms, draw, measure
from flaxarch.models import preact_unit as unit

FORMS: Forms = {
    "original": {"activation": unit.ORIGINAL},
    "BN after the sum": {"activation": unit.BN_AFTER_ADDITION},
    "ReLU before the sum": {"activation": unit.RELU_BEFORE_ADDITION},
    "ReLU-only pre-activation": {"activation": unit.RELU_ONLY_PREACT},
    "full pre-activation": {},
}

_claim = partial(
    Claim,
    "Batch norm behind the sum, or ReLU ahead of it, trains worse than the unit of 2015; full pre-activation "
    "does not.",
    "He et al. 2016b, Sec. 4.1 and Table 2",
    needs=("cifar10",),
    x="share of the training, %",
    y="training loss, nats",
    draw=draw,
)
CLAIM = _claim(
    protocol=f"Networks of 32 layers, where the paper's have 110 and 164. {SMALL.in_words} The training loss "
    "is the mean over the last tenth of the steps, or that of guessing where it is larger.",
    measure=partial(measure, forms=FORMS, depth=32, scale=SMALL),
    checks=(
        Check("training loss, BN after the sum", 0.0, minus="training loss, original"),
        Check("training loss, ReLU before the sum", 0.0, minus="training loss, original"),
        Check("training loss, full pre-activation", high=0.05, minus="training loss, original"),
    ),
    seeds=3,
    calibrated="that the loss of training decides, in place of the test error, and the margin of 0.05.",
)
FULL = _claim(
    protocol=f"Networks of 110 layers. {FULL_SCALE.in_words} The paper warms ResNet-110 up at "
    "a rate of 0.01.",
    measure=partial(measure, forms=FORMS, depth=110, scale=FULL_SCALE),
    checks=(
        Check("test error, BN after the sum", 0.5, minus="test error, original"),
        Check("test error, ReLU before the sum", 0.5, minus="test error, original"),
        Check("test error, full pre-activation", high=0.0, minus="test error, original"),
    ),
    seeds=5,
    tier="G",
    calibrated="margins of half a point; the paper's errors are 6.61, 8.17, 7.84, 6.71 and 6.37 %.",
)
