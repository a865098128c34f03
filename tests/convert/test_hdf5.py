"""Keras's files: three layouts of names, and what is refused."""

import io
import json
import mmap
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from flaxarch.convert import CheckpointError, read_checkpoint
from flaxarch.convert import archive as archive_module

RNG = np.random.default_rng(0)
CONV = {"kernel": RNG.normal(size=(3, 3, 3, 8)).astype(np.float32), "bias": np.ones(8, np.float32)}
NORM = {
    key: RNG.normal(size=8).astype(np.float32) for key in ("gamma", "beta", "moving_mean", "moving_variance")
}
TENSORS = {
    **{f"conv1/{leaf}": x for leaf, x in CONV.items()},
    **{f"bn1/{leaf}": x for leaf, x in NORM.items()},
}


def legacy(root: h5py.Group, names: dict[str, dict[str, str]], **storage) -> None:
    """Groups of layers, and lists of names in attributes: {layer: {leaf: name of the weight}}."""
    root.attrs["layer_names"] = [layer.encode() for layer in names]
    tensors = {"conv1": CONV, "bn1": NORM}
    for layer, weights in names.items():
        group = root.create_group(layer)
        group.attrs["weight_names"] = [name.encode() for name in weights.values()]
        for leaf, name in weights.items():
            group.create_dataset(name, data=tensors[layer][leaf], **storage)


KERAS2 = {
    "conv1": {leaf: f"conv1/{leaf}:0" for leaf in CONV},
    "bn1": {leaf: f"bn1/{leaf}:0" for leaf in NORM},
}
KERAS1 = {
    "conv1": {"kernel": "conv1_W_1", "bias": "conv1_b_1"},
    "bn1": {
        "gamma": "bn1_gamma",
        "beta": "bn1_beta",
        "moving_mean": "bn1_running_mean",
        "moving_variance": "bn1_running_std",
    },
}


def keras3(root: h5py.Group, *, named: bool) -> None:
    """Numbered variables in groups that are named for the layer's class."""
    for group, (name, tensors) in {"conv2d": ("conv1", CONV), "batch_normalization": ("bn1", NORM)}.items():
        variables = root.create_group(f"layers/{group}/vars")
        if named:
            variables.attrs["name"] = name
        for i, tensor in enumerate(tensors.values()):
            variables[str(i)] = tensor
    root.create_group("optimizer/vars")["0"] = np.zeros(())


def written(tmp_path: Path, write, name: str = "weights.h5") -> Path:
    path = tmp_path / name
    with h5py.File(path, "w") as file:
        write(file)
    return path


def assert_read(path: Path) -> None:
    tensors = read_checkpoint(path).tensors
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], tensor)
        assert tensors[name].dtype.isnative


@pytest.mark.parametrize("names", [KERAS2, KERAS1], ids=["keras2", "keras1"])
@pytest.mark.parametrize("group", ["", "model_weights"], ids=["weights", "whole model"])
def test_files_of_keras_1_and_2_get_the_names_of_keras_3(names, group: str, tmp_path: Path):
    def write(file):
        legacy(file.create_group(group) if group else file, names)
        if group:
            file.create_group("optimizer_weights")["momentum"] = np.zeros(3)

    assert_read(written(tmp_path, write))


def test_long_lists_of_names_stand_in_several_attributes(tmp_path: Path):
    def write(file):
        legacy(file, KERAS2)
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = [b"conv1"], [b"bn1"]

    assert_read(written(tmp_path, write))


@pytest.mark.parametrize("storage", [{"compression": "gzip"}, {"chunks": True}, {"dtype": ">f4"}], ids=str)
def test_compressed_chunked_and_big_endian_tensors_are_read(storage, tmp_path: Path):
    assert_read(written(tmp_path, lambda file: legacy(file, KERAS2, **storage)))


def test_tensors_that_are_not_compressed_are_mapped_and_not_copied(tmp_path: Path):
    tensors = read_checkpoint(written(tmp_path, lambda file: legacy(file, KERAS2))).tensors
    for tensor in tensors.values():
        owner = tensor
        while isinstance(owner, np.ndarray):
            owner = owner.base
        assert isinstance(owner.obj if isinstance(owner, memoryview) else owner, mmap.mmap)


def test_numbered_variables_of_keras_3_get_their_names(tmp_path: Path):
    assert_read(written(tmp_path, lambda file: keras3(file, named=True), "x.weights.h5"))


@pytest.mark.parametrize("named", [True, False])
def test_a_keras_archive_is_read_by_its_own_names_or_its_configuration(named: bool, tmp_path: Path):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        keras3(file, named=named)
    layers = [("InputLayer", "input"), ("Conv2D", "conv1"), ("BatchNormalization", "bn1")]
    layers = [{"class_name": kind, "config": {"name": name}} for kind, name in layers]
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
        archive.writestr("model.weights.h5", content.getvalue())
    assert_read(path)


def test_separable_and_depthwise_convolutions_keep_their_two_names(tmp_path: Path):
    def write(file):
        file.attrs["layer_names"] = [b"sep", b"dw"]
        for layer, leaves in {
            "sep": ("depthwise_kernel", "pointwise_kernel"),
            "dw": ("depthwise_kernel",),
        }.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{leaf}:0".encode() for leaf in leaves]
            for leaf in leaves:
                group[f"{layer}/{leaf}:0"] = np.ones((3, 3, 4, 1))

    names = read_checkpoint(written(tmp_path, write)).tensors.keys()
    assert names == {"sep/depthwise_kernel", "sep/pointwise_kernel", "dw/kernel"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["conv2d_95", "conv2d_96", "batch_normalization_95"], ["conv2d", "conv2d_1", "batch_normalization"]),
        (["conv2d_1", "block1", "conv2d_2"], ["conv2d", "block1", "conv2d_1"]),
        (["conv2d", "conv2d_1"], ["conv2d", "conv2d_1"]),
        (["convolution2d_10", "convolution2d_9"], ["conv2d_1", "conv2d"]),
        (["batchnormalization_1", "dense_1"], ["batch_normalization", "dense"]),
        (["conv2d_3", "conv2d_5"], ["conv2d_3", "conv2d_5"]),
        (["conv_1", "conv_2", "conv2d_bn"], ["conv_1", "conv_2", "conv2d_bn"]),
    ],
    ids=[
        "a later network of its session",
        "from one",
        "from zero",
        "Keras 1, by their numbers and not their order",
        "other kinds",
        "a gap is left",
        "own names are left",
    ],
)
@pytest.mark.parametrize("is_keras3", [False, True], ids=["legacy", "Keras 3"])
def test_layers_without_a_name_are_counted_from_zero(
    names: list[str], expected: list[str], is_keras3: bool, tmp_path: Path
):
    def write(file):
        file.attrs.update({} if is_keras3 else {"layer_names": [name.encode() for name in names]})
        for i, name in enumerate(names):
            if is_keras3:
                variables = file.create_group(f"layers/layer_{i}/vars")
                variables.attrs["name"], variables["0"] = name, np.full((1, 1), i, np.float32)
            else:
                group = file.create_group(name)
                group.attrs["weight_names"] = [f"{name}/kernel:0".encode()]
                group[f"{name}/kernel:0"] = np.full((1, 1), i, np.float32)

    tensors = read_checkpoint(written(tmp_path, write)).tensors
    assert {name: int(x[0, 0]) for name, x in tensors.items()} == {
        f"{name}/kernel": i for i, name in enumerate(expected)
    }


def replace_kernel(file, make) -> None:
    legacy(file, KERAS2)
    group = file["conv1/conv1"]
    del group["kernel:0"]
    make(group)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda group: group.__setitem__("kernel:0", h5py.ExternalLink("secrets.h5", "/x")),
            "is not followed",
        ),
        (
            lambda group: group.__setitem__("kernel:0", h5py.SoftLink("/conv1/conv1/bias:0")),
            "is not followed",
        ),
        (lambda group: None, "kernel:0' is missing"),
        (lambda group: group.create_group("kernel:0"), "'conv1/kernel': it is no tensor of this file"),
        (
            lambda group: group.create_dataset(
                "kernel:0", (4,), np.float32, external=[("elsewhere", 0, h5py.h5f.UNLIMITED)]
            ),
            "'conv1/kernel': it is no tensor of this file",
        ),
        (
            lambda group: group.create_virtual_dataset("kernel:0", h5py.VirtualLayout((4,), np.float32)),
            "'conv1/kernel': it is no tensor of this file",
        ),
        (lambda group: group.create_dataset("kernel:0", data=[b"x"]), "unsupported dtype"),
        (
            lambda group: group.create_dataset(
                "kernel:0", (1 << 20, 1 << 20), np.float32, chunks=(1 << 10, 1 << 10), compression="gzip"
            ),
            r"would take 4,398,046,5\d\d,\d\d\d bytes, of a file of \d\d,\d\d\d",
        ),
    ],
    ids=["external link", "soft link", "missing", "group", "external data", "virtual", "strings", "bomb"],
)
def test_what_leads_out_of_the_file_or_out_of_memory_is_refused(make, sentence: str, tmp_path: Path):
    path = written(tmp_path, lambda file: replace_kernel(file, make))
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(path)


def test_a_truncated_file_is_one_sentence(tmp_path: Path):
    whole = written(tmp_path, lambda file: legacy(file, KERAS2)).read_bytes()
    path = tmp_path / "part.h5"
    for length in range(9, len(whole), 997):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"part\.h5: .*(byte \d+|cut short)"):
            read_checkpoint(path)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive_module, "INFLATED_SLACK", 10**6)
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(10_000_000))
    with pytest.raises(
        CheckpointError, match=r"model.weights.h5.*inflates to over 16 times its size, here to 10,000,000"
    ):
        read_checkpoint(path)
