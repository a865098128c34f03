"""Inception v3: torchvision's, with and without its auxiliary head, timm's and Keras's."""

from flaxarch.convert import keras, torchvision
from tests.golden.case import Case

_STAGES = {2: "Conv2d_2b_3x3", 4: "Conv2d_4a_3x3", 8: "Mixed_5d", 16: "Mixed_6e", 32: "Mixed_7c"}
_EVALUATION = ((1, 299, 299), (1, 97, 113))
_TRAINING = (3, 107, 107)


# what is random in training cannot be compared
_FIELDS = {"dropout_rate": 0.0}


def _torch(builder: str, fields: dict | None = None, **kwargs) -> Case:
    fields = _FIELDS | (fields or {})
    rules = torchvision.INCEPTION_V3
    return Case(builder, fields=fields, rules=rules, evaluation=_EVALUATION, stages=_STAGES, **kwargs)


CASES = {
    # 299x299 is the least that the auxiliary head takes
    "inception_v3": _torch(
        "torchvision.models:inception_v3",
        kwargs={"aux_logits": True, "init_weights": False},
        training=(2, 299, 299),
        aux_weight=0.4,
        golden=True,
    ),
    "inception_v3, transform_input": _torch(
        "torchvision.models:inception_v3",
        fields={"transform_input": True},
        kwargs={"aux_logits": False, "init_weights": False, "transform_input": True},
        row="inception_v3_no_aux",
        training=_TRAINING,
    ),
    "inception_v3_no_aux": _torch("timm.models:inception_v3", training=_TRAINING),
    "inception_v3_keras": Case(
        "keras.applications:InceptionV3",
        rules=keras.INCEPTION_V3,
        evaluation=_EVALUATION,
        training=_TRAINING,
        stages={2: "activation_2", 4: "activation_4", 8: "mixed2", 16: "mixed7", 32: "mixed10"},
        golden=True,
        slow=True,
    ),
}
