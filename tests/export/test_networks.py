"""Networks of the registry as files: they agree, hold what they say, and appear whole or not at all."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import pytest
from jax import export as jax_export

import flaxarch
from flaxarch import export
from flaxarch.convert import CheckpointError
from flaxarch.convert.safetensors_file import read_safetensors
from flaxarch.export.description import evaluation
from flaxarch.export.graph import Graph
from flaxarch.export.simplify import simplify
from flaxarch.export.stablehlo import _widest
from flaxarch.export.tracing import traced
from tests.depth.nets import random_variables

SMALL = "resnet8_keras"  # ten convolutions
SHAPE = (32, 32, 3)

# A network of each family at a size that it takes, and others with an operation that these have not.
FAMILIES = {
    **dict.fromkeys(("airbench96", "ode_resnet_lm", "ode_resnet_revnet", "nin_cifar10"), 32),
    **dict.fromkeys(
        ("resnet20", "wrn_16_4", "seresnet20", "densenet_40_12", "preact_resnet20_pytorchcv"), 32
    ),
    **dict.fromkeys(("resnet18", "dpn68", "vgg11_lrn", "googlenet"), 64),
    **dict.fromkeys(("unet_same_bn", "unet_resnet18", "shufflenet_v2_x0_5", "bn_inception"), 64),
    **dict.fromkeys(("squeezenet1_1_bypass", "mobilenet_025", "mobilenet_v2", "mobilenet_v3_small"), 64),
    **dict.fromkeys(("alexnet_2012", "inception_v3", "xception", "inception_v4"), 96),
    **dict.fromkeys(("inception_resnet_v2", "resnet50v2_keras", "zfnet"), 96),
    **dict.fromkeys(("mobilenet_v3_small_keras", "alexnet"), 64),
    "lenet5_1998": 32,
    "ode_resnet_digits": 8,
    "parabolic_cifar10": 32,
    "unet": 188,
}


def images_of(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((number, *shape), np.float32)


def relative(found: Any, expected: Any) -> float:
    """Largest difference over the largest logit."""
    assert found.shape == expected.shape
    return float(abs(np.asarray(found) - expected).max() / abs(expected).max())


def graph_of(name: str, size: int) -> Graph:
    """The graph of a network, with variables that cost nothing."""
    model = flaxarch.create(name)
    shape = (size, size, flaxarch.published(name).input_shape[2])
    graph = traced(evaluation(model), random_variables(model, shape), shape, "NCHW")
    simplify(graph)
    return graph


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any, Any]:
    """A residual network, its variables, and it as a compiled function of images."""
    model = flaxarch.create(SMALL)
    variables = random_variables(model, SHAPE)
    return model, variables, jax.jit(lambda images: evaluation(model)(variables, images))


@pytest.fixture(scope="module")
def stablehlo(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stablehlo") / "small.stablehlo"
    assert export.write_stablehlo(path, *small[:2]).image_size == "multiples of 32 from 32x32"
    return path


# ONNX


def test_a_residual_network_agrees_in_both_layouts_for_any_number_of_images(small: Any, tmp_path: Path):
    model, variables, compiled = small
    for layout in ("NCHW", "NHWC"):
        export.write_onnx(tmp_path / "a.onnx", model, variables, layout=layout)
        found = export.run_onnx(tmp_path / "a.onnx", images_of(4))
        assert relative(found, compiled(images_of(4))) < 1e-5
        one_by_one = [export.run_onnx(tmp_path / "a.onnx", x[None]) for x in images_of(4)]
        assert relative(np.concatenate(one_by_one), found) < 1e-5


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES] + ["lenet5"],
)
def test_each_family_agrees_with_its_onnx_file(name: str, tmp_path: Path):
    row, model = flaxarch.published(name), flaxarch.create(name)
    size = FAMILIES.get(name, row.input_shape[0])
    shape = (size, size, row.input_shape[2])
    variables = random_variables(model, shape)
    export.write_onnx(tmp_path / "a.onnx", model, variables, input_shape=shape)
    expected = jax.jit(evaluation(model))(variables, images_of(2, shape))
    assert relative(export.run_onnx(tmp_path / "a.onnx", images_of(2, shape)), expected) < 1e-4


def test_families_of_the_registry_are_all_among_those():
    rows = {*FAMILIES, "lenet5"}
    for family in flaxarch.registry.FAMILIES:
        assert rows & set(family.VARIANTS), family.__name__


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet8_keras", 32)])
def test_nothing_but_the_layers_themselves_is_in_a_residual_network(name: str, size: int):
    operations = [node.op for node in graph_of(name, size).nodes]
    assert "Transpose" not in operations
    assert "BatchNormalization" not in operations
    assert operations.count("Gemm") == operations.count("GlobalAveragePool") == 1
    layers = {
        "Conv",
        "Relu",
        "Clip",
        "Add",
        "MaxPool",
        "Slice",
        "Pad",
        "GlobalAveragePool",
        "Gemm",
        "Reshape",
    }
    assert set(operations) <= layers


def test_hard_swish_and_its_gate_are_nodes_of_their_own():
    operations = [node.op for node in graph_of("mobilenet_v3_small_050", 64).nodes]
    assert operations.count("HardSwish") == 19
    assert operations.count("HardSigmoid") == operations.count("Mul") == 9
    assert "Clip" not in operations


def test_an_onnx_file_tells_what_it_is_and_passes_the_checker(small: Any, tmp_path: Path):
    model, variables, _ = small
    names = tuple("abcdefghij")
    export.write_onnx(tmp_path / "a.onnx", model, variables, preprocessing={"resize": 40}, classes=names)
    file = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(file, full_check=True)
    assert [(x.domain, x.version) for x in file.opset_import] == [("", export.OPSET)]
    said = {x.key: x.value for x in file.metadata_props}
    assert (said["name"], said["num_classes"], said["layout"]) == (SMALL, "10", "NCHW")
    pixels, row = json.loads(said["preprocessing"]), flaxarch.published(SMALL)
    assert pixels["resize"] == 40
    assert (pixels["mean"], pixels["interpolation"]) == (list(row.mean), row.interpolation)
    assert tuple(json.loads(said["classes"])) == names
    (given,), (logits,) = file.graph.input, file.graph.output
    lengths = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert (given.name, logits.name, lengths) == ("images", "logits", ["N", 3, 32, 32])


def test_a_failure_leaves_what_was_there(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, variables, _ = small
    path = tmp_path / "a.onnx"
    path.write_bytes(b"precious")

    def refuse(*_: Any, **__: Any) -> None:
        raise onnx.checker.ValidationError("no")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(onnx.checker.ValidationError):
        export.write_onnx(path, model, variables)
    assert [x.read_bytes() for x in tmp_path.iterdir()] == [b"precious"]


@pytest.mark.parametrize("package", ["onnx", "flatbuffers"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, package, None)
    write = export.write_onnx if package == "onnx" else export.write_stablehlo
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}.*pip install 'flaxarch\[export\]'"):
        write(tmp_path / "a", flaxarch.create("lenet5"), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layout": "CHWN"}, "NCHW or NHWC"),
        ({"input_shape": (32, 32)}, "height, width and channels"),
        ({"input_shape": (0, 32, 3)}, "height, width and channels"),
        ({"classes": ["one"]}, "1 names for 10 classes"),
        ({"input_shape": (32, 32, 4)}, "has parameters for 3 channels and is given 4"),
    ],
)
def test_what_cannot_be_is_said(small: Any, given: Any, said: str, tmp_path: Path):
    with pytest.raises(ValueError, match=said):
        export.write_onnx(tmp_path / "a.onnx", *small[:2], **given)
    assert not list(tmp_path.iterdir())


# StableHLO


def test_a_program_read_back_is_the_network_at_other_sizes_and_numbers_of_images(small: Any, stablehlo: Path):
    network = export.read_stablehlo(stablehlo)
    for images in (images_of(3), images_of(2, (32, 64, 3))):
        assert relative(network.evaluate(network.variables, images), small[2](images)) < 1e-5
    assert json.loads(network.metadata["preprocessing"])["mean"]


def test_a_program_takes_other_weights_of_its_network(small: Any, stablehlo: Path):
    network = export.read_stablehlo(stablehlo)
    others = {name: 2 * x if name.startswith("fc/") else x for name, x in network.variables.items()}
    assert relative(network.evaluate(others, images_of(3)), 2 * small[2](images_of(3))) < 1e-5


def test_a_program_is_read_without_this_library(small: Any, stablehlo: Path):
    tensors, _ = read_safetensors(np.fromfile(stablehlo, np.uint8))
    program = jax_export.deserialize(bytearray(tensors["stablehlo"].tobytes()))
    assert program.platforms == export.PLATFORMS
    variables = {name: x for name, x in tensors.items() if name != "stablehlo"}
    assert relative(program.call(variables, images_of(1)), small[2](images_of(1))) < 1e-5


def test_a_file_cut_off_or_damaged_or_of_another_kind_is_refused(stablehlo: Path, tmp_path: Path):
    content, path = stablehlo.read_bytes(), tmp_path / "a.stablehlo"
    size = 8 + int.from_bytes(content[:8], "little")
    program = json.loads(content[8:size])["stablehlo"]["data_offsets"]
    middle = size + sum(program) // 2
    flipped = bytes([content[middle] ^ 1])
    for data in (content[:-1], content[: len(content) // 2], content[:5], b""):
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            export.read_stablehlo(path)
    path.write_bytes(content[:middle] + flipped + content[middle + 1 :])
    with pytest.raises(CheckpointError, match="damaged"):
        export.read_stablehlo(path)
    model = flaxarch.create("lenet5")
    flaxarch.save(tmp_path / "b.safetensors", model, random_variables(model, (28, 28, 1)))
    with pytest.raises(CheckpointError, match="no StableHLO program"):
        export.read_stablehlo(tmp_path / "b.safetensors")


def test_a_network_that_asks_for_its_images_size_keeps_it_and_says_why():
    def asking(_: Any, images: jax.Array) -> jax.Array:
        return images.sum() / int(images.shape[1])

    def halving(_: Any, images: jax.Array) -> jax.Array:
        return images.sum() if images.shape[1] % 2 < 1 else images.max()

    images, words, reason = _widest(asking, {}, (64, 48, 3))
    assert (images.shape[1:], words) == ((64, 48, 3), "64x48")
    assert "_DimExpr" in reason or "Inconclusive" in reason
    assert _widest(halving, {}, (64, 64, 3))[1] == "multiples of 32 from 32x32"
    assert _widest(lambda _, x: x.sum(), {}, (64, 64, 3))[1:] == ("any from 32x32", "")
