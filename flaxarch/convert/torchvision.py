"""torchvision's names, and those of the torch CIFAR checkpoints that follow them."""

import re

from flaxarch.convert.rules import TORCH, Rules
from flaxarch.models.nin import NiN
from flaxarch.models.squeezenet import SqueezeNet
from flaxarch.models.vgg import VGG

_DROPPED = (r".*\.num_batches_tracked",)  # batch norm's step counter, of use only with momentum=None

_RESNET = (
    (r"^layer(\d+)_(\d+)", r"layer\1.\2"),
    (r"downsample_conv$", "downsample.0"),
    (r"downsample_bn$", "downsample.1"),
    (r"/", "."),
)
RESNET = Rules("torchvision", TORCH, _RESNET, _DROPPED)

# The CIFAR ResNets of akamaster/pytorch_resnet_cifar10 call the head "linear".
CIFAR_RESNET = Rules("pytorch_resnet_cifar10", TORCH, (*_RESNET, (r"^fc$", "linear")), _DROPPED)

# Our modules are torchvision's; timm's Inception v3 has the same names.
INCEPTION_V3 = Rules("torchvision", TORCH, ((r"/", "."),), _DROPPED)


def vgg_features(model: VGG) -> tuple[tuple[str, str], ...]:
    """The numbers of a VGG's convolutions and norms in `features`, where ReLUs and pools count too."""
    found, number = [], 0
    for stage in model.conv_names():
        for name in stage:
            found.append((f"^{name}$", f"features.{number}"))
            found.append((f"^{name.replace('conv', 'bn')}$", f"features.{number + 1}"))
            number += 3 if model.batch_norm else 2
        number += 1
    return tuple(found)


def vgg(model: VGG) -> Rules:
    """Of torchvision's VGGs; of kuangliu/pytorch-cifar's, where a dense layer stands alone."""
    last = "classifier.6" if model.hidden_sizes else "classifier"
    dense = ((r"^fc6$", "classifier.0"), (r"^fc7$", "classifier.3"), (r"^fc8$", last))
    return Rules("torchvision", TORCH, (*vgg_features(model), *dense), _DROPPED, flattened=(r"fc\d",))


_DENSENET = (
    (r"^(?!classifier$)", "features/"),
    (r"block(\d+)_layer(\d+)", r"denseblock\1/denselayer\2"),
    (r"/", "."),
)
DENSENET = Rules("torchvision", TORCH, _DENSENET, _DROPPED)

# As the released files have it still: the dots date from before 2018, and torchvision renames as it loads.
DENSENET_RELEASED = Rules(
    "torchvision's files", TORCH, (*_DENSENET, (r"(denselayer\d+\.[a-z]+)(\d)$", r"\1.\2")), _DROPPED
)

GOOGLENET = Rules(
    "torchvision",
    TORCH,
    ((r"/branch(\d)_(\d)", r"/branch\1.\2"), (r"/", ".")),
    _DROPPED,
    flattened=(r"aux\d/fc1",),
)

# Caffe's names, which the released BN-Inception has in torch too (pretrained-models).
BN_INCEPTION = Rules(
    "pretrained-models",
    TORCH,
    ((r"/conv$", ""), (r"/bn$", "_bn"), (r"/", "_"), (r"^fc$", "last_linear")),
    _DROPPED,
)


def _cccp(match: re.Match[str]) -> str:
    """The 1x1 convolutions count on from layer to layer: mlpconv2/cccp1 -> cccp3."""
    return f"cccp{2 * int(match[1]) - 2 + int(match[2])}"


def nin(model: NiN) -> Rules:
    """Caffe's names."""
    names = (
        (r"^mlpconv(\d)/conv$", r"conv\1"),
        (r"^mlpconv(\d)/cccp(\d)$", _cccp),
        (r"^classifier$", f"cccp{2 * len(model.layers)}"),
    )
    return Rules("Caffe", TORCH, names)


_UNIT = {"branch1_dw": 0, "branch1_pw": 2, "branch2_pw1": 0, "branch2_dw": 3, "branch2_pw2": 5}


def _shuffle_unit(match: re.Match[str]) -> str:
    """stage2_0/branch2_dw/bn -> stage2.0.branch2.4: ReLUs count too."""
    return f"{match[1]}.{match[2]}.{match[3][:7]}.{_UNIT[match[3]] + (match[4] == 'bn')}"


SHUFFLENET_V2 = Rules(
    "torchvision",
    TORCH,
    (
        (r"^(stage\d)_(\d)/(branch\w+)/(conv|bn)$", _shuffle_unit),
        (r"^(conv\d)/conv$", r"\1.0"),
        (r"^(conv\d)/bn$", r"\1.1"),
    ),
    _DROPPED,
)

ALEXNET = Rules(
    "torchvision",
    TORCH,
    (
        (r"^conv1$", "features.0"),
        (r"^conv2$", "features.3"),
        (r"^conv3$", "features.6"),
        (r"^conv4$", "features.8"),
        (r"^conv5$", "features.10"),
        (r"^fc6$", "classifier.1"),
        (r"^fc7$", "classifier.4"),
        (r"^fc8$", "classifier.6"),
    ),
    flattened=(r"fc\d",),
)


# As LeNet-5 is usually written in torch (FYH620/lenet-mnist-openvino): F6, too, is a dense layer there.
LENET = Rules(
    "PyTorch",
    TORCH,
    ((r"^c1$", "conv1"), (r"^c3$", "conv2"), (r"^c5$", "fc1"), (r"^f6$", "fc2"), (r"^output$", "fc3")),
    flattened=("c5", "f6"),
)


def squeezenet(model: SqueezeNet) -> Rules:
    """Of torchvision's SqueezeNets, whose numbers count pools too."""
    fires, number = [], 3  # after conv1, its ReLU and its pool
    for stage in model.fire_names():
        for name in stage:
            fires.append((f"^{name}/", f"features.{number}."))
            number += 1
        number += 1
    return Rules(
        "torchvision", TORCH, (*fires, (r"^conv1$", "features.0"), (r"^conv10$", "classifier.1")), _DROPPED
    )
