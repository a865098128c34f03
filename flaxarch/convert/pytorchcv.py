"""pytorchcv's names: features.stageI.unitJ, and in a unit convK.conv beside convK.bn.

Its Inceptions are in `pytorchcv_inception.py`. Where a file's names and shapes are those of several networks,
as with a bottleneck's stride on its first 1x1 (`resnet50` there, `resnet50_v1` here) or on its 3x3
(`resnet50b`), the name of the row has to be given. All weights there are for pixels normalised by ImageNet's
mean and standard deviation, whatever a row here says. At the row's input size the networks are ours; ahead of
the head most average a map of that size only, and so take hardly another one.

Some networks there are others than those here of their name (`NOT_OURS`). Nothing in a file tells
`resnet20_cifar10` from `shakedropresnet20_cifar10`, of which no weights are released.
"""

import re

from flaxarch.convert import torchvision
from flaxarch.convert.rules import TORCH, Rules
from flaxarch.models.mobilenet import STAGES
from flaxarch.models.squeezenet import SqueezeNet
from flaxarch.models.vgg import VGG

SOURCE = "pytorchcv"
DROPPED = torchvision.RESNET.dropped

# Networks of pytorchcv that go by a name of ours, or of its paper's, and are others. There are no rules for
# them, and their files fit no row.
NOT_OURS = {
    "alexnet": "its local response norm divides alpha by five, and its pools count partly filled windows",
    "zfnet": "its local response norm comes ahead of the pool, and divides alpha by five; zfnetb's too",
    "bn_vgg16": "its convolutions have no biases, which bn_vgg16b's have; 11, 13 and 19 are alike",
    "densenet40_k12_cifar10": "not the paper's: 24 features at first, and it compresses; the 100s too",
    "dpn68b": "it is dpn68 with a block's last convolution in two tensors, which no rule joins",
    "inceptionresnetv1": "it is the network of face recognition, with one more block and a narrow layer last",
    "mobilenetb_w1": "its depthwise convolutions have no batch norm and ReLU of their own; at all widths",
    "mobilenetv2_w1": "its first block has an expansion, and its head no bias; of all widths",
    "mobilenetv2b_w1": "its head has no bias; narrower ones do not round their widths to eights",
    "mobilenetv3_large_w1": "the layer ahead of its head has no bias; the small one's is also wider",
    "preresnet50": "its stem and its first unit both have a batch norm and ReLU; all depths, for ImageNet",
    "seresnet18": "its excitation has C / 16 inner features, which timm rounds to eights; 34 too",
    "shufflenetv2_w1": "its first max-pool is not padded, but counts a partly filled last window",
    "shufflenetv2b_w1": "where it halves the map, one branch keeps all channels of the input",
    "unet_cityscapes": "it interpolates where the U-Nets here have up-convolutions or copy pixels",
    "wrn50_2": "it has biases, and no batch norm",
}


def _unit(match: re.Match[str]) -> str:
    """layer1_0/ -> features.stage1.unit1."""
    return f"features.stage{match[1]}.unit{int(match[2]) + 1}."


# What is in the stages of all residual networks; what precedes and follows them is the family's.
_STAGES = (
    (r"^layer(\d+)_(\d+)/", _unit),
    (r"\.(?:bn|norm)(\d)$", r".body.conv\1.bn"),
    (r"\.conv(\d)$", r".body.conv\1.conv"),
    (r"\.downsample_", ".identity_conv."),
    (r"\.shortcut$", ".identity_conv"),
    (r"\.se/fc", ".se.conv"),
)


def _resnet(stem: str, last: str, *first: tuple[str, str]) -> Rules:
    """`stem` is the module of conv1 and bn1, `last` the head; `first` are substitutions ahead of these."""
    ends = ((r"^(conv|bn)1$", rf"{stem}.\1"), (r"^fc$", last))
    return Rules(SOURCE, TORCH, (*first, *ends, *_STAGES), DROPPED)


RESNET = _resnet("features.init_block.conv", "output")
CIFAR_RESNET = _resnet("features.init_block", "output")
SENET154 = _resnet(
    "features.init_block.conv3",
    "output.fc",
    (r"^conv1_6$", "conv1"),
    (r"^conv1_0$", "features.init_block.conv1.conv"),
    (r"^conv1_1$", "features.init_block.conv1.bn"),
    (r"^conv1_3$", "features.init_block.conv2.conv"),
    (r"^conv1_4$", "features.init_block.conv2.bn"),
)
PREACT_RESNET = Rules(  # Wide ResNets too
    SOURCE,
    TORCH,
    (
        (r"^conv1$", "features.init_block"),
        (r"^norm1$", "layer1_0/norm1"),  # right behind the first convolution: the first unit's, there
        (r"^(bn|norm)$", "features.post_activ.bn"),
        (r"^fc$", "output"),
        *_STAGES,
    ),
    DROPPED,
)


def _densenet(*stem: tuple[str, str]) -> Rules:
    """A transition is the first module of the stage behind it."""
    modules = (
        (r"^norm5$", "features.post_activ.bn"),
        (r"^classifier$", "output"),
        (r"^block(\d)_layer(\d+)/", r"features.stage\1.unit\2."),
        (r"\.norm(\d)$", r".conv\1.bn"),
        (r"\.conv(\d)$", r".conv\1.conv"),
        (r"^transition(\d)/", lambda match: "features.stage{0}.trans{0}.conv.".format(int(match[1]) + 1)),
        (r"\.norm$", ".bn"),
    )
    return Rules(SOURCE, TORCH, (*stem, *modules), DROPPED)


DENSENET = _densenet((r"^conv0$", "features.init_block.conv"), (r"^norm0$", "features.init_block.bn"))
CIFAR_DENSENET = _densenet((r"^conv0$", "features.init_block"))

_IN_DPN = {"c1x1_a": "conv1", "c3x3_b": "conv2", "c1x1_c": "conv3", "c1x1_w": "conv_proj"}


def _dual_path(match: re.Match[str]) -> str:
    """conv2_1/c1x1_a/bn -> features.stage1.unit1.conv1.bn."""
    return f"features.stage{int(match[1]) - 1}.unit{match[2]}.{_IN_DPN[match[3]]}.{match[4]}"


DPN = Rules(
    SOURCE,
    TORCH,
    (
        (r"^conv(\d)_(\d+)/(c\dx\d_\w)/(\w+)$", _dual_path),
        (r"^conv1_1/", "features.init_block."),
        (r"^conv5_bn_ac$", "features.final_block.activ.bn"),
        (r"^classifier$", "output.classifier"),
    ),
    DROPPED,
)

_DENSE = ((r"^fc([67])$", lambda match: f"output.fc{int(match[1]) - 5}.fc"), (r"^fc8$", "output.fc3"))
ALEXNET = Rules(
    SOURCE,
    TORCH,
    (
        (r"^conv([12])$", r"features.stage\1.unit1.conv"),
        (r"^conv([345])$", lambda match: f"features.stage3.unit{int(match[1]) - 2}.conv"),
        *_DENSE,
    ),
    flattened=(r"fc\d",),
)


def vgg(model: VGG) -> Rules:
    """A stage's convolutions are numbered from one."""
    found = []
    for i, stage in enumerate(model.conv_names(), start=1):
        for j, name in enumerate(stage, start=1):
            found.append((f"^{name}$", f"features.stage{i}.unit{j}.conv"))
            found.append((f"^{name.replace('conv', 'bn')}$", f"features.stage{i}.unit{j}.bn"))
    return Rules(SOURCE, TORCH, (*found, *_DENSE), DROPPED, flattened=(r"fc\d",))


def squeezenet(model: SqueezeNet) -> Rules:
    """A stage's fire modules are numbered from one."""
    fires = [
        (f"^{name}/(.+)", rf"features.stage{i}.unit{j}.\1.conv")
        for i, stage in enumerate(model.fire_names(), start=1)
        for j, name in enumerate(stage, start=1)
    ]
    ends = ((r"^conv1$", "features.init_block.conv"), (r"^conv10$", "output.final_conv"))
    return Rules(SOURCE, TORCH, (*fires, *ends), DROPPED)


NIN = Rules(
    SOURCE,
    TORCH,
    (
        (r"^mlpconv(\d)/conv$", r"features.stage\1.unit1.conv"),
        (r"^mlpconv(\d)/cccp(\d)$", lambda match: f"features.stage{match[1]}.unit{int(match[2]) + 1}.conv"),
        (r"^classifier$", "output.final_conv.conv"),
    ),
)

_PLACES = [f"stage{i}.unit{j}" for i, stage in enumerate(STAGES, start=1) for j in range(1, stage[2] + 1)]
MOBILENET = Rules(
    SOURCE,
    TORCH,
    (
        (r"^stem/", "features.init_block."),
        (r"^block(\d+)/", lambda match: f"features.{_PLACES[int(match[1]) - 1]}."),
        (r"\.depthwise/", ".dw_conv."),
        (r"\.pointwise/", ".pw_conv."),
        (r"^classifier$", "output"),
    ),
    DROPPED,
)


def _xception(match: re.Match[str]) -> str:
    """block5/ -> features.stage3.unit3.: a stage begins with each of blocks 1, 2, 3 and 12."""
    number = int(match[1])
    stage = min(number, 3) if number < 12 else 4
    return f"features.stage{stage}.unit{number - 2 if stage == 3 else 1}."


XCEPTION = Rules(
    SOURCE,
    TORCH,
    (
        (r"^conv([12])$", r"features.init_block.conv\1.conv"),
        (r"^bn([12])$", r"features.init_block.conv\1.bn"),
        (r"^(conv|bn)([34])", lambda match: f"features.final_block.conv{int(match[2]) - 2}.{match[1]}"),
        (r"^block(\d+)/", _xception),
        (r"\.sepconv(\d)", r".body.block\1.conv"),
        (r"\.bn(\d)$", r".body.block\1.bn"),
        (r"\.skip$", ".identity_conv.conv"),
        (r"\.skipbn$", ".identity_conv.bn"),
        (r"/(depth|point)wise$", lambda match: f".{match[1][0]}w_conv"),
        (r"^fc$", "output"),
    ),
    DROPPED,
)
