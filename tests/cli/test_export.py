"""`flaxarch export`, on a LeNet-5 of random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from flaxarch import export
from flaxarch.commands import export as command


def test_an_exported_file_is_compared_and_tells_its_classes(lenet: Path, run, tmp_path: Path):
    answer = run("export", lenet, tmp_path / "x.onnx")
    assert answer.status == 0, answer.err
    assert "lenet5, 10 classes, weights with flaxarch's names" in answer.out
    assert "ONNX opset 17, NCHW images of 28x28x1" in answer.out
    assert "compared by onnxruntime" in answer.out
    said = {x.key: x.value for x in onnx.load(tmp_path / "x.onnx").metadata_props}
    assert json.loads(said["classes"]) == list("0123456789")
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.parametrize("suffix", ["onnx", "stablehlo"])
def test_json_says_what_was_written_and_how_far_it_is_off(suffix: str, lenet: Path, run, tmp_path: Path):
    answer = run("export", lenet, tmp_path / f"x.{suffix}", "--json")
    assert answer.status == 0, answer.err
    document = answer.document
    assert document["read"]["name"] == "lenet5"
    assert document["checked"]["relative_difference"] < 1e-5
    assert document["written"]["input_shape"] == [28, 28, 1]
    assert document["written"]["bytes"] == (tmp_path / f"x.{suffix}").stat().st_size
    if suffix == "stablehlo":
        network = export.read_stablehlo(tmp_path / "x.stablehlo")
        assert network.evaluate(network.variables, np.zeros((1, 28, 28, 1), np.float32)).shape == (1, 10)
        assert document["written"]["platforms"] == ["cpu", "cuda", "tpu"]


def test_a_name_is_exported_with_new_weights_and_another_size(run, tmp_path: Path):
    answer = run(
        "export", "lenet5", tmp_path / "x.onnx", "--image-size", 28, 28, "--layout", "NHWC", "--json"
    )
    assert "the weights are new, from seed 0" in answer.err
    assert answer.document["written"]["layout"] == "NHWC"


def test_what_is_asked_wrongly_is_answered_in_a_sentence(lenet: Path, refused, tmp_path: Path):
    there = tmp_path / "there.onnx"
    there.write_bytes(b"precious")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(lenet.read_bytes()[:-100])
    out = tmp_path / "x.onnx"
    assert "has to end in .onnx or .stablehlo" in refused("export", lenet, tmp_path / "x.pb")
    assert "--force writes over it" in refused("export", lenet, there)
    assert "there is no folder" in refused("export", lenet, tmp_path / "no" / "x.onnx")
    assert "is a folder" in refused("export", lenet, _folder(tmp_path / "f.onnx"))
    assert "did you mean lenet5" in refused("export", "lenet6", out)
    assert "No such file" in refused("export", tmp_path / "no.safetensors", out)
    assert "--name is for a checkpoint" in refused("export", "lenet5", out, "--name", "lenet5")
    assert "--layout is for .onnx" in refused("export", lenet, tmp_path / "x.stablehlo", "--layout", "NHWC")
    assert "at least 1x1" in refused("export", lenet, out, "--image-size", 0, 28)
    assert "invalid choice" in refused("export", lenet, out, "--layout", "CHW")
    assert "cut.safetensors" in refused("export", cut, out, status=1)
    assert "at least" in refused("export", lenet, out, "--image-size", 8, 8, status=1)
    assert "names 1 classes" in refused("export", lenet, out, "--classes", _names(tmp_path))
    assert there.read_bytes() == b"precious"
    assert not out.exists()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _names(folder: Path) -> Path:
    (folder / "names.txt").write_text("one\n")
    return folder / "names.txt"


def test_a_file_that_disagrees_is_not_kept(
    lenet: Path, refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    exact = export.run_onnx
    monkeypatch.setattr(export, "run_onnx", lambda *given: exact(*given) * 1.001)
    there = tmp_path / "x.onnx"
    there.write_bytes(b"precious")
    sentence = _last(refused, "export", lenet, there, "--force")
    assert "differ from the network's by" in sentence
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


def _last(refused: Any, *argv: Any) -> str:
    return refused(*argv, "--json", status=1)


def test_without_onnxruntime_the_file_is_written_and_said_to_be_unchecked(
    lenet: Path, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = command.find_spec
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    answer = run("export", lenet, tmp_path / "x.onnx", "--json")
    assert answer.document["checked"] is None
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    answer = run("export", lenet, tmp_path / "y.onnx")
    assert answer.status == 2
    assert "pip install 'flaxarch[export]'" in answer.err
