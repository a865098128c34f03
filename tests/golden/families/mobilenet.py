"""MobileNets, of all three versions."""

from functools import partial

from flaxarch.convert import mobilenet
from tests.golden.case import Case

_case = partial(Case, fields={"dropout_rate": 0.0}, training=(3, 65, 81))


def _v1_keras(alpha: float) -> Case:
    stages = {2: "conv_pw_1_relu", 4: "conv_pw_3_relu", 8: "conv_pw_5_relu"}
    stages |= {16: "conv_pw_11_relu", 32: "conv_pw_13_relu"}
    return _case(
        "keras.applications:MobileNet", kwargs={"alpha": alpha}, rules=mobilenet.KERAS_V1, stages=stages
    )


def _v1_paper(width_multiplier: float) -> Case:
    return _case("tests.golden.torch_mobilenet:MobileNet", (width_multiplier,), rules=mobilenet.RETINAFACE)


def _timm(name: str, rules, **kwargs) -> Case:
    return _case(f"timm.models:{name}", rules=rules, **kwargs)


def _v2_keras(alpha: float) -> Case:
    return _case("keras.applications:MobileNetV2", kwargs={"alpha": alpha}, rules=mobilenet.KERAS_V2)


def _v3_keras(size: str, **kwargs) -> Case:
    # without its rescaling, which is the row's mean and std
    return _case(
        f"keras.applications:MobileNetV3{size}",
        kwargs={"include_preprocessing": False, **kwargs},
        rules=mobilenet.KERAS_V3,
    )


CASES = {
    "mobilenet_025": _v1_paper(0.25),
    "mobilenet_050": _v1_paper(0.5),
    "mobilenet_075": _v1_paper(0.75),
    "mobilenet_100": _timm("mobilenetv1_100", mobilenet.TIMM),
    "mobilenet_125": _timm("mobilenetv1_125", mobilenet.TIMM),
    "mobilenet_025_keras": _v1_keras(0.25).but(golden=True),
    "mobilenet_050_keras": _v1_keras(0.5),
    "mobilenet_075_keras": _v1_keras(0.75),
    "mobilenet_100_keras": _v1_keras(1.0),
    "mobilenet_v2": _case(
        "torchvision.models:mobilenet_v2",
        rules=mobilenet.torchvision_v2,
        stages={2: "features.1", 4: "features.3", 8: "features.6", 16: "features.13", 32: "features.17"},
    ),
    **{
        f"mobilenet_v2_{width}": _timm(f"mobilenetv2_{width}", mobilenet.timm_v2)
        for width in ("035", "050", "075", "140", "110d", "120d")
    },
    "mobilenet_v2, timm": _timm("mobilenetv2_100", mobilenet.timm_v2, row="mobilenet_v2"),
    **{
        f"mobilenet_v2_{100 * alpha:03.0f}_keras": _v2_keras(alpha)
        for alpha in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
    },
    **{
        name: _case(f"torchvision.models:{name}", rules=mobilenet.torchvision_v3, stages=stages)
        for name, stages in {
            "mobilenet_v3_large": {
                2: "features.1",
                4: "features.3",
                8: "features.6",
                16: "features.12",
                32: "features.15",
            },
            "mobilenet_v3_small": {2: "features.0", 4: "features.1", 8: "features.3"}
            | {16: "features.8", 32: "features.11"},
        }.items()
    },
    "mobilenet_v3_large_timm": _timm("mobilenetv3_large_100", mobilenet.timm_v3),
    "mobilenet_v3_large_075": _timm("mobilenetv3_large_075", mobilenet.timm_v3),
    "mobilenet_v3_small_timm": _timm("mobilenetv3_small_100", mobilenet.timm_v3),
    "mobilenet_v3_small_075": _timm("mobilenetv3_small_075", mobilenet.timm_v3),
    "mobilenet_v3_small_050": _timm("mobilenetv3_small_050", mobilenet.timm_v3),
    "mobilenet_v3_large_keras": _v3_keras("Large"),
    "mobilenet_v3_large_075_keras": _v3_keras("Large", alpha=0.75),
    "mobilenet_v3_large_minimalistic_keras": _v3_keras("Large", minimalistic=True),
    "mobilenet_v3_small_keras": _v3_keras("Small"),
    "mobilenet_v3_small_075_keras": _v3_keras("Small", alpha=0.75),
    "mobilenet_v3_small_minimalistic_keras": _v3_keras("Small", minimalistic=True),
}
CASES["mobilenet_v3_small"] = CASES["mobilenet_v3_small"].but(golden=True, slow=True)
