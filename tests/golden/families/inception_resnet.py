"""Inception-ResNets: timm's and Keras's, and torch modules after the paper's figures."""

from flaxarch.convert import keras, timm
from flaxarch.convert.rules import TORCH, Rules
from tests.golden.case import Case

_EVALUATION = ((1, 299, 299), (1, 97, 113))
_TRAINING = (3, 107, 107)
_PAPER_RULES = Rules("torch, in our names", TORCH, ((r"/", "."),), timm.INCEPTION_RESNET.dropped)


def _paper(version: str, stage_sizes: tuple[int, int, int]) -> Case:
    a, b, c = stage_sizes
    return Case(
        "tests.golden.torch_inception_resnet:InceptionResNet",
        (version, stage_sizes),
        fields={"dropout_rate": 0.0},  # what is random in training cannot be compared
        rules=_PAPER_RULES,
        evaluation=_EVALUATION,
        training=_TRAINING,
        stages={8: f"block35_{a}", 16: f"block17_{b}", 32: f"block8_{c}"},
    )


CASES = {
    "inception_resnet_v2": Case(
        "timm.models:inception_resnet_v2",
        rules=timm.INCEPTION_RESNET,
        evaluation=_EVALUATION,
        training=_TRAINING,
        stages={2: "conv2d_2b", 4: "conv2d_4a", 8: "repeat", 16: "repeat_1", 32: "conv2d_7b"},
    ),
    "inception_resnet_v2_keras": Case(
        "keras.applications:InceptionResNetV2",
        rules=keras.INCEPTION_RESNET,
        evaluation=_EVALUATION,
        training=_TRAINING,
        stages={
            2: "activation_2",
            4: "activation_4",
            8: "block35_10_ac",
            16: "block17_20_ac",
            32: "conv_7b_ac",
        },
    ),
    "inception_resnet_v1": _paper("v1", (5, 10, 5)),
    "inception_resnet_v2_paper": _paper("v2", (5, 10, 5)),
    "inception_resnet_v2_paper_10_20_10": _paper("v2", (10, 20, 10)),
}
