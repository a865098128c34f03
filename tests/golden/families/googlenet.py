"""GoogLeNet: torchvision's, and the paper's."""

from flaxarch.convert import torchvision
from tests.golden.case import Case

_NO_DROPOUT = {"dropout_rate": 0.0, "aux_dropout_rate": 0.0}  # what is random cannot be compared
_STAGES = {2: "conv1", 4: "conv3", 8: "inception3b", 16: "inception4e", 32: "inception5b"}


def _torchvision(fields: dict, **kwargs) -> Case:
    return Case(
        "torchvision.models:googlenet",
        kwargs={"init_weights": False, **kwargs},
        fields={**_NO_DROPOUT, **fields},
        rules=torchvision.GOOGLENET,
        stages=_STAGES,
        aux_weight=0.3,
    )


def _paper(*, aux: bool) -> Case:
    stages = {stride: name for stride, name in _STAGES.items() if stride != 4}  # ours there is normalised
    return Case(
        "tests.golden.torch_googlenet:GoogLeNet",
        kwargs={"aux": aux},
        fields=_NO_DROPOUT,
        rules=torchvision.GOOGLENET,
        stages=stages,
        training=(2, 224, 224) if aux else (4, 65, 65),  # the auxiliary heads' 5x5 pools leave 4x4 of 224
        aux_weight=0.3,
    )


CASES = {
    "googlenet": _torchvision({}).but(golden=True),
    "googlenet, input transformed": _torchvision({"transform_input": True}, transform_input=True).but(
        row="googlenet", evaluation=((1, 97, 113),), training=(2, 65, 65)
    ),
    "googlenet_no_aux": _torchvision({}, aux_logits=False),
    "googlenet_paper": _paper(aux=True),
    "googlenet_paper_no_aux": _paper(aux=False),
}
