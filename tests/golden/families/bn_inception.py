"""BN-Inception: the released network, and the paper's table."""

from flaxarch.convert import torchvision
from tests.golden.case import Case


def _case(*, released: bool, **kwargs) -> Case:
    return Case(
        "tests.golden.torch_bn_inception:BNInception",
        kwargs={"released": released},
        rules=torchvision.BN_INCEPTION,
        # the released network takes no size that leaves an odd map where it is halved, as 113 does
        evaluation=((1, 224, 224), (1, 97, 129)),
        stages={2: "output_conv1", 4: "output_conv2", 8: "output_3b", 16: "output_4d", 32: "output_5b"},
        **kwargs,
    )


CASES = {
    "bn_inception": _case(released=True, golden=True, slow=True),
    "bn_inception_paper": _case(released=False),
}
