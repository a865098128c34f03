"""pytorchcv's names: those that it has, recognised as the rows whose function they are, and no others."""

import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import flaxarch
from flaxarch.convert import CheckpointError, recognise
from flaxarch.convert.pytorchcv import NOT_OURS
from flaxarch.convert.recognise import shapes_of
from flaxarch.convert.rules import slots
from flaxarch.convert.sources import SOURCES, Source

Shapes = dict[str, tuple[int, ...]]


def source_of(row: str) -> Source:
    """pytorchcv's, for the row."""
    model = flaxarch.create(row)
    (source,) = (x for x in SOURCES if row in x.rows and x.rules_of(model).source == "pytorchcv")
    return source


@cache
def names_of(row: str) -> Shapes:
    model = flaxarch.create(row)
    table = list(slots(shapes_of(model), source_of(row).rules_of(model)))
    shapes = {slot.name: slot.source_shape for slot in table}
    assert len(shapes) == len(table), "two leaves have one name"
    return shapes


def write(path: Path, shapes: Shapes) -> Path:
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, path)
    return path


# Row, pytorchcv's builder, number of tensors, and CRC-32 of the sorted lines "name (shape)", without
# num_batches_tracked; from the state dicts of pytorchcv 0.0.74.
RECORDED = [
    ("resnet18", "resnet18", 102, 0xB004A93F),
    ("seresnet20_b", "seresnet20_cifar10", 143, 0xC720AFA9),
    ("preact_resnet20_pytorchcv", "preresnet20_cifar10", 99, 0x460D8629),
    ("wrn_16_10", "wrn16_10_cifar10", 70, 0x34E7A033),
    ("densenet_bc_40_12", "densenet40_k12_bc_cifar10", 197, 0x962892C0),
    ("alexnet", "alexnetb", 16, 0xE3284B93),
    ("vgg11_bn", "bn_vgg11b", 54, 0x30DE18D2),
    ("squeezenet1_1", "squeezenet_v1_1", 52, 0x5AF8E8E0),
    ("nin_cifar10_pytorchcv", "nin_cifar10", 18, 0xCF75D6E6),
    ("mobilenet_025", "mobilenet_wd4", 137, 0x1C9D8D3E),
    ("xception", "xception", 236, 0x3F7F6755),
    ("bn_inception", "bninception", 416, 0x127AD28F),
]
SLOW = [  # to trace
    ("seresnext50_32x4d", "seresnext50_32x4d", 331, 0x286C6A8E),
    ("inception_v3_no_aux", "inceptionv3", 472, 0x7514DBAF),
    ("dpn68", "dpn68", 361, 0x82F8C53E),
    ("senet154", "senet154", 987, 0x2CD7FA39),
    ("densenet121", "densenet121", 606, 0xCCC3B3B3),
    ("resnet164_b", "resnet164bn_cifar10", 832, 0xFF5F741C),
    ("preact_resnet164_pytorchcv", "preresnet164bn_cifar10", 820, 0xF44911EC),
    ("inception_v4", "inceptionv4", 747, 0xC0B4C49F),
    ("inception_resnet_v2", "inceptionresnetv2", 1102, 0x4C0081FC),
]


@pytest.mark.parametrize(
    ("row", "builder", "number", "crc"),
    [*RECORDED, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_names_and_shapes_are_pytorchcvs(row: str, builder: str, number: int, crc: int):
    shapes = names_of(row)
    lines = sorted(f"{name} {shape}" for name, shape in shapes.items())
    assert len(lines) == number, builder
    assert zlib.crc32("\n".join(lines).encode()) == crc, builder


def test_names_of_a_unit_are_in_its_body():
    shapes = names_of("resnet20_b")
    assert shapes["features.init_block.conv.weight"] == (16, 3, 3, 3)
    assert shapes["features.stage2.unit1.body.conv1.conv.weight"] == (32, 16, 3, 3)
    assert shapes["features.stage2.unit1.body.conv2.bn.running_var"] == (32,)
    assert shapes["features.stage2.unit1.identity_conv.conv.weight"] == (32, 16, 1, 1)
    assert shapes["output.weight"] == (10, 64)


@pytest.mark.parametrize("row", ["resnet20_b", "preact_resnet20_pytorchcv", "nin_cifar10_pytorchcv"])
def test_file_is_recognised_and_read_to_the_bit(row: str, tmp_path: Path):
    path = write(tmp_path / "x.safetensors", names_of(row))
    found = recognise(path)
    assert (found.name, found.source) == (row, "pytorchcv")
    model, variables = flaxarch.load(path)
    assert model == flaxarch.create(row)
    written = safetensors.numpy.load_file(path)
    for slot in slots(variables, found.rules):
        leaf: Any = variables
        for key in slot.path:
            leaf = leaf[key]
        np.testing.assert_array_equal(slot.to_source(leaf), written[slot.name])


def test_classes_are_the_files(tmp_path: Path):
    shapes = names_of("resnet20_b") | {"output.weight": (100, 64), "output.bias": (100,)}
    model, _ = flaxarch.load(write(tmp_path / "x.safetensors", shapes))
    assert model == flaxarch.create("resnet20_b", num_classes=100)


def test_squeezenet_with_bypass_is_asked_for_by_name(tmp_path: Path):
    path = write(tmp_path / "x.safetensors", names_of("squeezenet1_1"))
    with pytest.raises(CheckpointError, match=r"fits several rows, squeezenet1_1, squeezenet1_1_bypass: say"):
        flaxarch.load(path)
    model, _ = flaxarch.load(path, "squeezenet1_1_bypass")
    assert model == flaxarch.create("squeezenet1_1_bypass")


def test_names_do_not_tell_where_the_stride_is():
    assert {"resnet50_v1", "resnet50"} <= set(source_of("resnet50").rows)
    assert {"seresnet50_v1", "seresnet50"} <= set(source_of("seresnet50").rows)
    assert names_of("resnet50_v1") == names_of("resnet50")


def densenet40_k12() -> Shapes:
    """Without bottlenecks, of 24 features at first, half of them left by a transition."""
    shapes: Shapes = {"features.init_block.weight": (24, 3, 3, 3)}

    def norm(name: str, features: int) -> Shapes:
        return {f"{name}.{leaf}": (features,) for leaf in ("weight", "bias", "running_mean", "running_var")}

    features = 24
    for stage in (1, 2, 3):
        if stage > 1:
            name = f"features.stage{stage}.trans{stage}.conv"
            shapes |= norm(f"{name}.bn", features)
            shapes[f"{name}.conv.weight"] = (features // 2, features, 1, 1)
            features //= 2
        for unit in range(1, 13):
            name = f"features.stage{stage}.unit{unit}.conv"
            shapes |= norm(f"{name}.bn", features)
            shapes[f"{name}.conv.weight"] = (12, features, 3, 3)
            features += 12
    return (
        shapes
        | norm("features.post_activ.bn", features)
        | {
            "output.weight": (10, features),
            "output.bias": (10,),
        }
    )


def mobilenetb_wd4() -> Shapes:
    """No norm behind the depthwise convolutions."""
    return {name: shape for name, shape in names_of("mobilenet_025").items() if ".dw_conv.bn." not in name}


@pytest.mark.parametrize("shapes", [densenet40_k12, mobilenetb_wd4])
def test_network_that_is_not_ours_is_refused(shapes: Any, tmp_path: Path):
    path = write(tmp_path / "x.safetensors", shapes())
    with pytest.raises(CheckpointError, match=r"x.safetensors fits no row") as error:
        flaxarch.load(path)
    assert "\n" not in str(error.value)


def test_network_that_is_not_ours_is_refused_under_our_name(tmp_path: Path):
    path = write(tmp_path / "x.safetensors", mobilenetb_wd4())
    with pytest.raises(CheckpointError, match=r"does not fit the model, 52 missing: .*dw_conv.bn") as error:
        flaxarch.load(path, "mobilenet_025")
    assert "\n" not in str(error.value)


def test_recorded_shapes_of_the_refused_densenet_are_pytorchcvs():
    sizes = [np.prod(shape) for name, shape in densenet40_k12().items() if "running" not in name]
    assert sum(sizes) == 599_050
    assert "densenet40_k12_cifar10" in NOT_OURS


def test_network_of_the_same_names_is_not_read_as_one_of_ours(tmp_path: Path):
    path = write(tmp_path / "x.safetensors", names_of("nin_cifar10_pytorchcv"))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        flaxarch.load(path, "nin_cifar10")


def test_pixels_are_imagenets_whatever_the_row_says(tmp_path: Path):
    found = recognise(write(tmp_path / "x.safetensors", names_of("xception")))
    assert flaxarch.published("xception").mean == (0.5, 0.5, 0.5)
    assert found.preprocessing == {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
