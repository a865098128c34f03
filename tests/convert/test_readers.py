import contextlib
import json
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from flaxarch.convert import CheckpointError, read_checkpoint
from flaxarch.convert.torch_file import read_torch
from tests.convert.torch_writer import (
    STORAGES,
    WEIGHTS,
    Name,
    assert_equal,
    legacy_format,
    refusal,
    tensor,
    tensors,
    zip_format,
)

FORMATS = pytest.mark.parametrize("write", [zip_format, legacy_format])


# The rest of a checkpoint


@FORMATS
def test_other_entries_of_a_training_checkpoint_are_read_and_left_out(write, file):
    momentum = tensor(np.ones(3, np.float32))
    tree = {
        "epoch": 90,
        "arch": "resnet18",
        "state_dict": tensors(prefix="module."),
        "best_prec1": np.float64(91.78),
        "optimizer": {
            "state": {140735: {"step": 3, "momentum_buffer": momentum}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [140735]}],
        },
        "device": Name("torch", "device")("cuda", 1),
        "size": Name("torch", "Size")((3, 224, 224)),
        "dtype": Name("torch", "float32"),
    }
    path = file(write(tree), "model_best.pth.tar")
    assert_equal(read_checkpoint(path).tensors, WEIGHTS)
    whole = read_torch(path)
    assert whole["best_prec1"] == 91.78
    assert whole["device"] == "cuda:1"
    assert whole["size"] == (3, 224, 224)
    np.testing.assert_array_equal(whole["optimizer"]["state"][140735]["momentum_buffer"], np.ones(3))


OTHER = {"conv.weight": np.zeros(1, np.float32)}


@pytest.mark.parametrize(
    "tree",
    [
        tensors(),
        {"state_dict": tensors(), "model": tensors(OTHER)},
        {"model": tensors(), "epoch": 1},
        {"model_state_dict": tensors(), "net": tensors(OTHER)},
        {"net": tensors(), "acc": 93.0},
        {"params": tensors()},
        {"state_dict_ema": tensors(OTHER), "state_dict": tensors()},
        {"model_ema": tensors(OTHER), "model": tensors()},
        {"epoch": 3, "state_dict_ema": tensors()},
        {"model": {"epoch": 3, "state_dict": tensors()}},
        {"state_dict": None, "model": tensors()},
        tensors(prefix="module."),
        {"state_dict": tensors(prefix="model.")},
        tensors(prefix="_orig_mod.module."),
    ],
    ids=lambda tree: "-".join(tree),
)
def test_the_state_dict_is_found_and_common_prefixes_are_taken_off(tree, file):
    assert_equal(read_checkpoint(file(zip_format(tree))).tensors, WEIGHTS)


@pytest.mark.parametrize(
    "arrays",
    [
        {"module.a": np.ones(1), "b": np.ones(1)},
        {"model.a": np.ones(1), "module.b": np.ones(1)},
        {"modules.a": np.ones(1)},
        {"module": np.ones(1)},
    ],
    ids=lambda arrays: "-".join(arrays),
)
def test_a_prefix_stays_unless_all_names_have_it(arrays, file):
    assert_equal(read_checkpoint(file(zip_format(tensors(arrays)))).tensors, arrays)


@pytest.mark.parametrize(
    ("tree", "contents"),
    [
        ({"epoch": 3, "optimizer": {}}, "2 entries: 'epoch', 'optimizer'"),
        ({"weight": tensor(np.ones(1)), "epoch": 3}, "'weight', 'epoch'"),
        ({"state_dict": {}}, "'state_dict'"),
        ({str(i): i for i in range(99)}, "99 entries: '0', "),
        ([tensor(np.ones(1))], "a list"),
        (tensor(np.ones(1)), "a ndarray"),
    ],
    ids=str,
)
def test_a_file_without_a_state_dict_is_refused_with_its_contents(tree, contents, file):
    assert contents in refusal(file(zip_format(tree)))


def test_wrappers_without_end_are_not_followed(file):
    tree = tensors()
    for _ in range(60):  # two ways at each step
        tree = {"model": tree, "net": tree}
    assert "no state dict" in refusal(file(zip_format(tree)))


# Other files


@pytest.mark.parametrize("dtype", [*STORAGES, *map(np.dtype, ("u2", "u4", "u8"))], ids=str)
def test_safetensors_read_back_bit_equal_with_metadata(dtype, file):
    arrays = {
        "b": np.arange(6).astype(dtype).reshape(2, 3),
        "a.b": np.ones((), dtype),
        "z": np.zeros((0, 2), dtype),
    }
    path = file(safetensors.numpy.save(arrays, {"name": "lenet5"}), "lenet.bin")
    checkpoint = read_checkpoint(path)
    assert_equal(dict(sorted(checkpoint.tensors.items())), dict(sorted(arrays.items())))
    assert checkpoint.metadata == {"name": "lenet5"}


def test_safetensors_may_have_no_metadata_and_keep_their_names(file):
    arrays = {"model.a": np.ones(2), "model.b": np.ones(2)}
    checkpoint = read_checkpoint(file(safetensors.numpy.save(arrays)))
    assert_equal(checkpoint.tensors, arrays)
    assert checkpoint.metadata == {}


def test_safetensors_of_other_dtypes_are_refused(file):
    array = np.ones(2, ml_dtypes.float8_e4m3fn)
    assert "F8_E4M3" in refusal(file(safetensors.numpy.save({"x": array})))


def test_damaged_safetensors_are_refused(file):
    content = safetensors.numpy.save(WEIGHTS, {"name": "lenet5"})
    for length in range(1, len(content), 3):
        refusal(file(content[:length]))
    header_bits = 8 * (8 + int.from_bytes(content[:8], "little"))
    for bit in np.random.default_rng(0).choice(header_bits, 500, replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(CheckpointError):
            read_checkpoint(file(flipped))


def test_paths_that_are_no_checkpoint_end_in_one_sentence(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        read_checkpoint(tmp_path / "nowhere.pth")
    assert "this folder has none of model.safetensors" in refusal(tmp_path)
    assert "a device, not a file" in refusal(os.devnull)
    assert "empty" in refusal(file(b""))
    assert "cannot be read" in refusal(file(b"") / "weights.pth")
    assert "<!DOCTYP" in refusal(file(b"<!DOCTYPE html><title>404</title>"))


# Files written by torch itself


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_of_torch_read_back_bit_equal(is_zip, tmp_path):
    torch = pytest.importorskip("torch")
    block = torch.randn(4, 5, 6)
    state_dict = {
        "weight": torch.nn.Parameter(block),
        "transposed": block.permute(2, 0, 1)[1:],
        "shared": block[2, 3],
        "expanded": torch.randn(3, 1).expand(3, 100),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3),
        "bool": torch.tensor([True, False]),
        "uint16": torch.arange(3).to(torch.uint16),
        **{
            name: torch.arange(6).to(getattr(torch, name))
            for name in ("float64", "float16", "int8", "uint8", "int16")
        },
    }
    bfloat16 = torch.randn(7).bfloat16()
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    tree = {
        "state_dict": state_dict | {"bfloat16": bfloat16},
        "optimizer": optimizer.state_dict(),
        "best": np.float64(0.5),
        "size": bfloat16.shape,
        "device": bfloat16.device,
        "dtype": bfloat16.dtype,
        "storage": torch.zeros(2).untyped_storage(),
    }
    path = tmp_path / "weights.pth"
    torch.save(tree, path, _use_new_zipfile_serialization=is_zip)
    actual = read_checkpoint(path).tensors
    assert_equal(
        {name: array for name, array in actual.items() if name != "bfloat16"},
        {name: value.detach().numpy() for name, value in state_dict.items()},
    )
    assert actual["bfloat16"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(actual["bfloat16"].view(np.int16), bfloat16.view(torch.int16).numpy())


# Safetensors in several files


def sharded(folder, weight_map: dict[str, str]):
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, folder / "model-00001-of-00002.safetensors")
    safetensors.numpy.save_file(
        {"b": np.zeros((2, 3), np.float32)}, folder / "model-00002-of-00002.safetensors"
    )
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map}))
    return path


SHARDS = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def test_an_index_brings_the_tensors_of_all_its_files(tmp_path):
    expected = {"a": np.ones(2, np.float32), "b": np.zeros((2, 3), np.float32)}
    assert_equal(read_checkpoint(sharded(tmp_path, SHARDS)).tensors, expected)


@pytest.mark.parametrize(
    ("weight_map", "sentence"),
    [
        (SHARDS | {"c": SHARDS["a"]}, "'c' is not in model-00001-of-00002.safetensors"),
        (SHARDS | {"b": "../b.safetensors"}, "is no name of a file beside it"),
        (SHARDS | {"b": "absent.safetensors"}, "absent.safetensors' is missing"),
        ({"b": 3}, "tensor 'b' is placed in a int, no file"),
        ({}, "is no index of safetensors files"),
    ],
)
def test_an_index_that_leads_astray_is_refused(weight_map, sentence: str, tmp_path):
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(sharded(tmp_path, weight_map))
