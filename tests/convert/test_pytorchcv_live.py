"""pytorchcv's own networks, all of them: which rows their tensors' names and shapes fit."""

import re
from collections import defaultdict

import pytest

import flaxarch
from flaxarch.convert.pytorchcv import NOT_OURS
from flaxarch.convert.recognise import shapes_of
from flaxarch.convert.rules import slots
from flaxarch.convert.sources import SOURCES

torch = pytest.importorskip("torch")
provider = pytest.importorskip("pytorchcv.model_provider")

DEPTHS = (50, 101, 152)
FITS = {  # builder -> rows
    **{name: {name} for name in ("resnet18", "resnet34", "senet154", "xception")},
    **{f"resnet{depth}{b}": {f"resnet{depth}", f"resnet{depth}_v1"} for depth in DEPTHS for b in ("", "b")},
    **{
        f"seresnet{depth}{b}": {f"seresnet{depth}", f"seresnet{depth}_v1"}
        for depth in DEPTHS
        for b in ("", "b")
    },
    **{name: {name} for name in ("resnext50_32x4d", "resnext101_32x4d", "resnext101_64x4d")},
    **{name: {name} for name in ("seresnext50_32x4d", "seresnext101_32x4d")},
    **{
        f"{kind}resnet{depth}_cifar10": {f"{kind}resnet{depth}_b"}
        for kind in ("", "se")
        for depth in (20, 56, 110)
    },
    "resnet164bn_cifar10": {"resnet164_b"},
    "resnet1202_cifar10": {"resnet1202_b"},
    **{f"resnext29_{size}_cifar10": {f"resnext29_{size}"} for size in ("32x4d", "16x64d")},
    **{f"preresnet{depth}_cifar10": {f"preact_resnet{depth}_pytorchcv"} for depth in (20, 56, 110)},
    "preresnet164bn_cifar10": {"preact_resnet164_pytorchcv"},
    **{f"wrn{size}_cifar10": {f"wrn_{size}"} for size in ("16_10", "28_10", "40_8")},
    **{f"densenet{depth}": {f"densenet{depth}"} for depth in (121, 161, 169, 201)},
    **{
        f"densenet{depth}_k{k}_bc_cifar10": {f"densenet_bc_{depth}_{k}"}
        for depth, k in ((40, 12), (40, 24), (40, 36), (100, 12), (190, 40), (250, 24))
    },
    **{f"dpn{size}": {f"dpn{size}"} for size in (68, 98, 107, 131)},
    "alexnetb": {"alexnet"},
    **{f"vgg{depth}": {f"vgg{depth}"} for depth in (11, 13, 16, 19)},
    **{f"bn_vgg{depth}b": {f"vgg{depth}_bn"} for depth in (11, 13, 16, 19)},
    **{
        f"squeeze{kind}_v{version}": {f"squeezenet{version}", f"squeezenet{version}_bypass"}
        for kind in ("net", "resnet")
        for version in ("1_0", "1_1")
    },
    "nin_cifar10": {"nin_cifar10_pytorchcv"},
    "mobilenet_w1": {"mobilenet_100_paper"},
    "mobilenet_w3d4": {"mobilenet_075"},
    "mobilenet_wd2": {"mobilenet_050"},
    "mobilenet_wd4": {"mobilenet_025"},
    "bninception": {"bn_inception"},
    "inceptionv3": {"inception_v3_no_aux"},
    "inceptionv4": {"inception_v4"},
    "inceptionresnetv2": {"inception_resnet_v2"},
    # Without released weights. Shared weights are in a file once for each use; with ShakeDrop's factors of
    # evaluation it is another function, which nothing in a file tells.
    **{f"sharesnet{depth}": {f"resnet{depth}"} for depth in (18, 34)},
    **{
        f"sharesnet{depth}{b}": {f"resnet{depth}", f"resnet{depth}_v1"} for depth in DEPTHS for b in ("", "b")
    },
    "resdropresnet20_cifar10": {"resnet20_b"},
    "shakedropresnet20_cifar10": {"resnet20_b"},
}
# of other inputs than images, or for other data: the networks are the same but for their heads
_OTHER = r"_svhn$|_cifar100$|_cub$|_voc$|_coco$|_ade20k|raft|propainter|jasper|quartznet"


@pytest.mark.slow
def test_networks_of_pytorchcv_fit_the_rows_that_they_are_and_no_others():
    rows = defaultdict(set)
    for source in SOURCES:
        for row in source.rows:
            model = flaxarch.create(row)
            if (rules := source.rules_of(model)).source == "pytorchcv":
                names = {slot.name: slot.source_shape for slot in slots(shapes_of(model), rules)}
                rows[frozenset(names.items())].add(row)

    found = {}
    for builder in provider._models:
        if not re.search(_OTHER, builder):
            with torch.device("meta"):
                tensors = provider.get_model(builder).state_dict()
            names = {key: tuple(x.shape) for key, x in tensors.items() if "num_batches" not in key}
            found[builder] = rows.get(frozenset(names.items()), set())
    assert {builder: fits for builder, fits in found.items() if fits} == FITS
    assert found.keys() >= NOT_OURS.keys()
