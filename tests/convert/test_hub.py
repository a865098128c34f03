"""Folders of the Hugging Face hub, on disk: weights, what their configuration tells, and what is wrong."""

import json
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy

import flaxarch
from flaxarch.cli import main
from flaxarch.convert import CheckpointError, recognise, write_torch
from flaxarch.convert.recognise import shapes_of

# As timm's config.json of a network
CONFIG: dict[str, Any] = {
    "architecture": "mobilenetv1_100",
    "num_classes": 5,
    "label_names": ["ant", "bee", "cat", "dog", "eel"],
    "pretrained_cfg": {
        "input_size": [3, 96, 128],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any]:
    model = flaxarch.create("squeezenet1_1", num_classes=5)
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes_of(model))


@pytest.fixture
def folder(network: tuple[Any, Any], tmp_path: Path) -> Path:
    place = tmp_path / "squeezenet"
    place.mkdir()
    safetensors.numpy.save_file(flaxarch.to_torch(*network), place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(CONFIG))
    return place


def test_folder_loads_as_its_weights_do(network: tuple[Any, Any], folder: Path):
    model, variables = flaxarch.load(folder)
    assert model == network[0]
    chex.assert_trees_all_equal(variables, network[1])
    _, other = flaxarch.load(folder / "model.safetensors")
    chex.assert_trees_all_equal(variables, other)


def test_configuration_tells_how_pictures_are_made_and_the_names_of_the_classes(folder: Path):
    found = recognise(folder)
    assert found.preprocessing == {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "interpolation": "bicubic",
        "input_shape": (96, 128, 3),
        "resize": 106,  # 96 / 0.9, rounded down
    }
    assert found.classes == ("ant", "bee", "cat", "dog", "eel")


def test_converted_folder_keeps_both_and_says_where_it_came_from(folder: Path, tmp_path: Path):
    assert main(["convert", str(folder), str(tmp_path / "x.safetensors")]) == 0
    found = recognise(tmp_path / "x.safetensors")
    assert found.classes == tuple(CONFIG["label_names"])
    assert (found.preprocessing or {})["resize"] == 106
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        assert json.loads(file.metadata()["provenance"])["file"] == "squeezenet"


def test_cache_entry_is_the_snapshot_that_main_names(network: tuple[Any, Any], folder: Path, tmp_path: Path):
    entry = tmp_path / "models--timm--squeezenet"
    for revision in ("aaa", "bbb"):
        (entry / "snapshots" / revision).mkdir(parents=True)
    (entry / "blobs").mkdir()
    blob = entry / "blobs" / "1234"
    blob.write_bytes((folder / "model.safetensors").read_bytes())
    (entry / "snapshots" / "bbb" / "model.safetensors").symlink_to("../../blobs/1234")
    with pytest.raises(CheckpointError, match=r"has 2 snapshots, and refs/main names none of them"):
        flaxarch.load(entry)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("bbb")
    assert flaxarch.load(entry)[0] == network[0]
    blob.unlink()
    with pytest.raises(CheckpointError, match="a link to a file that is not there: download it again"):
        flaxarch.load(entry)


def test_weights_of_torch_are_read_where_there_are_no_others(network: tuple[Any, Any], tmp_path: Path):
    write_torch(tmp_path / "pytorch_model.bin", flaxarch.to_torch(*network))
    assert flaxarch.load(tmp_path)[0] == network[0]


@pytest.mark.parametrize(
    "row", [pytest.param("mobilenet_v3_small_timm", marks=pytest.mark.slow), "mobilenet_v3_small_keras"]
)
def test_architecture_decides_between_rows_that_the_tensors_fit(row: str, tmp_path: Path):
    model = flaxarch.create("mobilenet_v3_small_timm")
    variables = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes_of(model))
    safetensors.numpy.save_file(flaxarch.to_torch(model, variables), tmp_path / "model.safetensors")
    timm = {"mobilenet_v3_small_timm": "mobilenetv3_small_100"}.get(row, "tf_mobilenetv3_small_100")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": timm}))
    assert recognise(tmp_path).name == row
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "mobilenetv4"}))
    with pytest.raises(
        CheckpointError, match=r"fits several rows, .* \(its config.json names 'mobilenetv4'\)"
    ):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("config.json", "[1]", "config.json is a list, no object"),
        ("config.json", "{", "config.json: byte 1: this is no JSON"),
        ("model.safetensors", "", "the file is empty"),
    ],
)
def test_broken_folder_is_refused_in_a_sentence(folder: Path, name: str, text: str, sentence: str):
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=sentence):
        flaxarch.load(folder)


def test_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"has none of model\.safetensors"):
        flaxarch.load(tmp_path)


def test_senseless_values_of_a_configuration_are_left_to_the_row(folder: Path):
    senseless = {
        "mean": ["x"],
        "std": [],
        "crop_pct": -1,
        "input_size": [3, "a", 2],
        "interpolation": "random",
    }
    (folder / "config.json").write_text(json.dumps({"architecture": 3, "pretrained_cfg": senseless}))
    assert recognise(folder).preprocessing is None
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": [1], "label_names": [1, 2]}))
    assert recognise(folder).classes is None
