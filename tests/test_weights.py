"""Checkpoints into models and back: total, strict, bit for bit."""

import json
import re
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import flaxarch
from flaxarch import registry
from flaxarch.convert import CheckpointError, keras, read_checkpoint, recognise, torchvision, write_torch
from flaxarch.convert.rules import Rules, slots
from flaxarch.convert.strict import fill
from flaxarch.layers import Network
from flaxarch.models.cifar_resnet import CifarResNet, stage_sizes
from flaxarch.models.resnet import ResNet


def shapes_of(model: Network, images: tuple[int, ...] = (1, 64, 64, 3)) -> dict[str, Any]:
    init, _ = flaxarch.functional(model)
    struct = jax.ShapeDtypeStruct(images, jnp.float32)
    params, batch_stats = jax.eval_shape(init, jax.random.key(0), struct)
    return {"params": params, "batch_stats": batch_stats}


def random_variables(model: Network, images: tuple[int, ...] = (1, 64, 64, 3)) -> dict[str, Any]:
    """Every leaf different from every other and from what a network starts with."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes_of(model, images))


def as_source(model: Network, variables: Any, rules: Rules) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves(variables)
    return {slot.name: slot.to_source(x) for slot, x in zip(slots(variables, rules), leaves, strict=True)}


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    safetensors.numpy.save_file(tensors, path, metadata)
    return path


@pytest.fixture(scope="module")
def resnet20() -> tuple[Network, dict[str, Any]]:
    model = flaxarch.create("resnet20")
    return model, random_variables(model)


@pytest.mark.parametrize(
    ("model", "images"),
    [
        (flaxarch.create("resnet20"), (1, 32, 32, 3)),
        (flaxarch.create("resnet20", num_classes=7), (1, 8, 8, 1)),
        (flaxarch.create("wrn_16_4"), (1, 32, 32, 4)),
        (CifarResNet(stage_sizes(14)), (1, 32, 32, 3)),
        (flaxarch.create("resnet18").clone(output_stride=16, zero_init_residual=True), (1, 64, 64, 3)),
        (flaxarch.create("plain20"), (1, 32, 32, 3)),
    ],
    ids=lambda x: "x".join(map(str, x)) if isinstance(x, tuple) else type(x).__name__,
)
def test_saved_model_loads_as_the_same_model_with_the_same_bits(model: Network, images, tmp_path: Path):
    variables = random_variables(model, images)
    flaxarch.save(tmp_path / "x.safetensors", model, variables)
    loaded, found = flaxarch.load(tmp_path / "x.safetensors")
    assert loaded == model
    chex.assert_trees_all_equal(found, variables)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_saved_file_tells_name_and_preprocessing(resnet20, tmp_path: Path):
    flaxarch.save(tmp_path / "x.safetensors", *resnet20)
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["name"] == "resnet20"
    assert json.loads(metadata["preprocessing"])["mean"] == [0.485, 0.456, 0.406]


def test_saved_file_names_its_classes_and_tells_where_it_comes_from(resnet20, tmp_path: Path):
    names = [f"kind {i}" for i in range(10)]
    flaxarch.save(tmp_path / "x.safetensors", *resnet20, classes=names, provenance={"source": "a test"})
    found = recognise(tmp_path / "x.safetensors")
    assert found.classes == tuple(names)
    assert found.preprocessing is not None
    assert found.preprocessing["std"] == [0.229, 0.224, 0.225]
    assert str(found) == "resnet20 with flaxarch's names, 10 classes"
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        assert json.loads(file.metadata()["provenance"]) == {"source": "a test"}


def test_saved_file_keeps_preprocessing_of_its_own_and_may_be_read_by_others(resnet20, tmp_path: Path):
    flaxarch.save(tmp_path / "x.safetensors", *resnet20, preprocessing={"mean": (0.5, 0.5, 0.5)})
    found = recognise(tmp_path / "x.safetensors").preprocessing
    assert found is not None
    assert (found["mean"], found["std"]) == ([0.5, 0.5, 0.5], [0.229, 0.224, 0.225])
    (tmp_path / "plain").touch()
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_of_classes_are_as_many_as_the_classes(resnet20, tmp_path: Path):
    with pytest.raises(ValueError, match="there are 2 names for 10 classes"):
        flaxarch.save(tmp_path / "x.safetensors", *resnet20, classes=["cat", "dog"])
    assert list(tmp_path.iterdir()) == []


def test_network_with_frozen_batch_norm_is_saved_as_the_network(resnet20, tmp_path: Path):
    model, variables = resnet20
    flaxarch.save(tmp_path / "x.safetensors", flaxarch.freeze_batch_norm(model), variables)
    loaded, _ = flaxarch.load(tmp_path / "x.safetensors")
    assert loaded == model


def test_fields_that_are_tuples_in_tuples_come_back(tmp_path: Path):
    model = flaxarch.create("nin_cifar10", num_classes=3)
    first, *others = model.layers  # pyright: ignore[reportAttributeAccessIssue]
    model = model.clone(layers=(first._replace(features=(8, 6, 4)), *others))
    variables = random_variables(model)
    flaxarch.save(tmp_path / "x.safetensors", model, variables)
    loaded, found = flaxarch.load(tmp_path / "x.safetensors")
    assert loaded == model
    chex.assert_trees_all_equal(found, variables)


def test_fields_that_no_file_can_hold_are_named(tmp_path: Path):
    model = flaxarch.create("alexnet")
    model = model.clone(layers=model.layers[:4])  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="this AlexNet is no published one: its layers"):
        flaxarch.save(tmp_path / "x.safetensors", model, {})


def test_channels_of_a_named_network_are_the_files(tmp_path: Path):
    model = flaxarch.create("resnet20")
    variables = random_variables(model, (1, 32, 32, 5))
    path = write(tmp_path / "x.safetensors", as_source(model, variables, torchvision.CIFAR_RESNET))
    assert recognise(path, "resnet20").in_channels == 5
    _, found = flaxarch.load(path, "resnet20")
    chex.assert_trees_all_equal(found, variables)
    _, grey = flaxarch.load(path, "resnet20", in_channels=1)
    chex.assert_trees_all_close(
        grey["params"]["conv1"]["kernel"],
        variables["params"]["conv1"]["kernel"].sum(axis=2, keepdims=True),
        atol=1e-6,
    )


def test_loading_says_what_was_recognised(resnet20, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write(tmp_path / "x.safetensors", flaxarch.to_torch(*resnet20))
    with caplog.at_level("INFO", logger="flaxarch"):
        flaxarch.load(path)
    assert "x.safetensors is a resnet20 with pytorch_resnet_cifar10's names, 10 classes" in caplog.text


def test_torch_file_written_without_torch_is_read_bit_for_bit(resnet20, tmp_path: Path):
    tensors = flaxarch.to_torch(*resnet20)
    tensors |= {
        "count": np.array(7),
        "half": np.ones(5, ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float16),
        "transposed": np.arange(12.0).reshape(3, 4).T,
    }
    write_torch(tmp_path / "x.pth", tensors)
    found = read_checkpoint(tmp_path / "x.pth").tensors
    assert list(found) == list(tensors)
    chex.assert_trees_all_equal(found, tensors)
    chex.assert_trees_all_equal_dtypes(found, tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_torch_file_of_the_same_tensors_has_the_same_bytes(resnet20, tmp_path: Path):
    for name in ("x.pth", "y.pth"):
        write_torch(tmp_path / name, flaxarch.to_torch(*resnet20))
    assert (tmp_path / "x.pth").read_bytes() == (tmp_path / "y.pth").read_bytes()


def test_dtype_that_torch_files_do_not_hold_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^x is of dtype complex64, which"):
        write_torch(tmp_path / "x.pth", {"x": np.zeros(2, np.complex64)})
    assert list(tmp_path.iterdir()) == []


def test_model_that_no_row_describes_cannot_be_saved(tmp_path: Path):
    model = ResNet(
        (1, 1, 1, 1), block=flaxarch.create("resnet18").block, stem=flaxarch.create("resnet20").stem
    )
    with pytest.raises(ValueError, match="is no published one: its"):
        flaxarch.save(tmp_path / "x.safetensors", model, random_variables(model))
    assert list(tmp_path.iterdir()) == []


def test_variables_of_another_model_cannot_be_saved(resnet20, tmp_path: Path):
    _, variables = resnet20
    with pytest.raises(ValueError, match="names or shapes differ"):
        flaxarch.save(tmp_path / "x.safetensors", flaxarch.create("resnet32"), variables)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_import_uses_every_torchvision_key_and_export_gives_it_back(name: str):
    keys = Path(__file__).parent / "golden" / f"{name}.npz"
    with np.load(keys) as golden:
        source_shapes = json.loads(str(golden["about"]))["shapes"]
    model = flaxarch.create(name)
    table = {slot.name: slot.source_shape for slot in slots(shapes_of(model), torchvision.RESNET)}
    kept = {key: tuple(shape) for key, shape in source_shapes.items() if not torchvision.RESNET.drops(key)}
    assert table == kept


def test_export_of_an_import_is_bit_equal():
    model = flaxarch.create("resnet18")
    shapes = shapes_of(model)
    rng = np.random.default_rng(1)
    tensors = {
        slot.name: rng.normal(size=slot.source_shape).astype(np.float32)
        for slot in slots(shapes, torchvision.RESNET)
    }
    variables = fill(shapes, tensors, torchvision.RESNET, what="a file")
    exported = flaxarch.to_torch(model, variables)
    assert exported.keys() == tensors.keys()
    chex.assert_trees_all_equal(exported, tensors)
    assert all(x.flags.c_contiguous and x.flags.writeable for x in exported.values())


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_export_takes_the_names_of_the_library_that_is_asked_for(source: str, tmp_path: Path):
    model = flaxarch.create("mobilenet_v2")
    variables = random_variables(model)
    path = write(tmp_path / "x.safetensors", flaxarch.to_torch(model, variables, source))
    assert flaxarch.convert.recognise(path).source == source
    chex.assert_trees_all_equal(flaxarch.load(path), (model, variables))


def test_export_to_a_library_without_the_network_names_those_that_have_it(resnet20):
    with pytest.raises(ValueError, match=r"^there are no names of Caffe for ResNet, but of torchvision, pyt"):
        flaxarch.to_torch(*resnet20, source="Caffe")


def test_head_of_another_width_is_kept_where_nobody_asks(tmp_path: Path):
    model = flaxarch.create("resnet18", num_classes=3)
    path = write(tmp_path / "x.safetensors", flaxarch.to_torch(model, random_variables(model)))
    loaded, _ = flaxarch.load(path)
    assert loaded == model


def test_loading_with_another_num_classes_keeps_the_body_and_says_that_the_head_is_new(
    resnet20, tmp_path: Path
):
    model, variables = resnet20
    flaxarch.save(tmp_path / "x.safetensors", model, variables)
    with pytest.warns(UserWarning, match="head of 10 classes: the body is loaded, and the head of 5 is new"):
        loaded, found = flaxarch.load(tmp_path / "x.safetensors", num_classes=5)
    assert loaded == model.clone(num_classes=5)
    assert found["params"]["fc"]["kernel"].shape == (64, 5)
    body = {name: x for name, x in variables["params"].items() if name != "fc"}
    chex.assert_trees_all_equal({name: found["params"][name] for name in body}, body)
    chex.assert_trees_all_equal(found["batch_stats"], variables["batch_stats"])


def test_loading_with_the_number_of_classes_that_the_file_has_is_silent(resnet20, tmp_path: Path):
    flaxarch.save(tmp_path / "x.safetensors", *resnet20)
    _, found = flaxarch.load(tmp_path / "x.safetensors", num_classes=10)
    chex.assert_trees_all_equal(found, resnet20[1])


@pytest.mark.parametrize(
    ("name", "rules"), [("resnet20", torchvision.CIFAR_RESNET), ("resnet50_keras", keras.RESNET)]
)
def test_network_is_recognised_by_its_tensors(name: str, rules: Rules, tmp_path: Path):
    model = flaxarch.create(name)
    variables = random_variables(model)
    path = write(tmp_path / "x.safetensors", as_source(model, variables, rules))
    loaded, found = flaxarch.load(path)
    assert loaded == model
    chex.assert_trees_all_equal(found, variables)


def test_name_chooses_among_networks_with_the_same_tensors(resnet20, tmp_path: Path):
    model, variables = resnet20
    path = write(tmp_path / "x.safetensors", as_source(model, variables, torchvision.CIFAR_RESNET))
    loaded, found = flaxarch.load(path, "plain20")
    assert loaded == flaxarch.create("plain20")
    chex.assert_trees_all_equal(found, variables)


@pytest.mark.slow
def test_name_chooses_between_two_functions_of_the_same_tensors(tmp_path: Path):
    model = flaxarch.create("mobilenet_v3_small_keras")  # timm has it as tf_mobilenetv3_small_100
    variables = random_variables(model)
    path = write(tmp_path / "x.safetensors", flaxarch.to_torch(model, variables, "timm"))
    with pytest.raises(CheckpointError, match="rows, mobilenet_v3_small_timm, mobilenet_v3_small_keras:"):
        flaxarch.load(path)
    chex.assert_trees_all_equal(flaxarch.load(path, "mobilenet_v3_small_keras"), (model, variables))


def test_unrecognised_file_asks_for_a_name(tmp_path: Path):
    path = write(tmp_path / "x.safetensors", {"conv.weight": np.zeros((2, 3, 3, 3), np.float32)})
    with pytest.raises(CheckpointError, match=r"^x.safetensors fits no row .*load\(path, name=...\)$"):
        flaxarch.load(path)


def test_missing_unexpected_and_misshapen_tensors_are_named_together(resnet20, tmp_path: Path):
    model, variables = resnet20
    tensors = as_source(model, variables, torchvision.CIFAR_RESNET)
    del tensors["layer1.0.conv1.weight"], tensors["bn1.running_var"]
    tensors["layer4.0.conv1.weight"] = np.zeros((1, 1, 3, 3), np.float32)
    tensors["conv1.weight"] = np.zeros((16, 3, 3), np.float32)
    tensors["bn1.num_batches_tracked"] = np.zeros((), np.int64)  # dropped by rule
    path = write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(CheckpointError) as error:
        flaxarch.load(path, "resnet20")
    message = str(error.value)
    assert "2 missing: bn1.running_var (16,), layer1.0.conv1.weight (16, 16, 3, 3)" in message
    assert "1 unexpected: layer4.0.conv1.weight (1, 1, 3, 3)" in message
    assert "1 of another shape: conv1.weight (16, 3, 3) instead of (16, 3, 3, 3)" in message
    assert "num_batches_tracked" not in message
    assert "\n" not in message


def test_long_lists_of_offenders_are_cut_and_counted(tmp_path: Path):
    path = write(tmp_path / "x.safetensors", {"conv.weight": np.zeros((2, 3, 3, 3), np.float32)})
    with pytest.raises(CheckpointError, match=r"97 missing: .* and 77 more; 1 unexpected: conv.weight"):
        flaxarch.load(path, "resnet20")


def test_half_precision_tensors_become_float32_exactly(resnet20, tmp_path: Path):
    model, variables = resnet20
    for dtype in (np.float16, ml_dtypes.bfloat16):
        halves = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), variables)
        path = write(tmp_path / "x.safetensors", as_source(model, halves, torchvision.CIFAR_RESNET))
        _, found = flaxarch.load(path)
        expected = jax.tree.map(lambda x: x.astype(np.float32), halves)
        chex.assert_trees_all_equal(found, expected)
        chex.assert_trees_all_equal_dtypes(found, expected)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "resnet21"},
        {"fields": "{"},
        {"fields": '{"depth": 3}'},
        {"fields": None},
    ],
    ids=str,
)
def test_own_file_with_broken_metadata_is_one_sentence(
    change: dict[str, str | None], resnet20, tmp_path: Path
):
    flaxarch.save(tmp_path / "x.safetensors", *resnet20)
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() | change
    metadata = {key: value for key, value in metadata.items() if value is not None}
    write(tmp_path / "y.safetensors", tensors, metadata)
    with pytest.raises(CheckpointError, match="does not describe a model that flaxarch has") as error:
        flaxarch.load(tmp_path / "y.safetensors")
    assert "\n" not in str(error.value)


def test_own_file_of_another_network_than_asked_for_is_refused(resnet20, tmp_path: Path):
    flaxarch.save(tmp_path / "x.safetensors", *resnet20)
    with pytest.raises(CheckpointError, match="holds a resnet20, not a resnet32"):
        flaxarch.load(tmp_path / "x.safetensors", "resnet32")


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        flaxarch.load(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("name", registry.list_models())
def test_every_row_describes_itself(name: str):
    found, fields = registry.describe(flaxarch.create(name))
    assert flaxarch.create(found).clone(**fields) == flaxarch.create(name)
    assert fields == {}


def test_names_of_one_source_are_all_different():
    names = [slot.name for slot in slots(shapes_of(flaxarch.create("resnet50_keras")), keras.RESNET)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"(conv\d(_block\d_\d)?_(conv|bn)|predictions)/\w+", name) for name in names)
