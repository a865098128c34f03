"""`flaxarch train` is the trainer, and `flaxarch claims` the ledger."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flaxarch
from benchmarks.claims import report
from benchmarks.claims.ledger import CLAIMS
from train import __main__ as trainer
from train.config import Config


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that the trainer was started with; it does not train."""
    configs: list[Config] = []

    def train(config: Config, console: Any) -> float:
        configs.append(config)
        if console is not None:
            console.print("epoch 1")
        return 0.5

    monkeypatch.setattr(trainer, "train", train)
    return configs


def test_train_takes_the_trainers_flags_and_recipes(run, asked: list[Config], tmp_path: Path):
    answer = run("train", "--recipe", "fashion_mnist", "--steps", 7, "--workdir", tmp_path)
    assert answer.status == 0, answer.err
    assert (asked[0].model, asked[0].steps, asked[0].workdir) == ("resnet8_keras", 7, tmp_path)


def test_train_tells_its_result_as_json_and_its_progress_elsewhere(run, asked: list[Config], tmp_path: Path):
    (tmp_path / "best.safetensors").touch()
    answer = run("train", "--workdir", tmp_path, "--json")
    assert answer.document == {
        "model": "resnet20",
        "accuracy": 0.5,
        "workdir": str(tmp_path),
        "best": str(tmp_path / "best.safetensors"),
    }
    assert "epoch 1" in answer.err
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--modle", "resnet20"), "did you mean --model?"),
        (("--batch-size", "x"), "`flaxarch train --help` has all flags"),
        (("--learning-rate", "x"), "--learning-rate is 'x': it has to be a number"),
        (("--recipe", "nope"), "there is no recipe 'nope'"),
        (("--model", "resnet2"), "there is no model named 'resnet2'"),
    ],
)
def test_train_refuses_wrong_flags_in_a_sentence(refused, flags: tuple[str, ...], sentence: str, capsys: Any):
    assert sentence in refused("train", *flags)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_wrong_flag_is_a_sentence_in_any_encoding_of_the_terminal(encoding: str):
    command = [sys.executable, "-m", "flaxarch", "list", "--srt", "x"]
    given = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=given, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unrecognized options: --srt, x: did you mean --sort?\n"


def test_train_without_its_packages_says_what_to_install(refused, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    for name in [name for name in sys.modules if name.split(".")[0] == "train"]:
        monkeypatch.delitem(sys.modules, name)
    assert "pip install 'flaxarch[train]'" in refused("train", status=1)


def test_claims_lists_every_claim_with_its_outcome(run):
    documents = run("claims", "--json").document
    assert {document["name"]: document["outcome"] for document in documents} == {
        name: report.outcome(name) for name in CLAIMS
    }
    assert len(run("claims").out.splitlines()) == len(CLAIMS) + 1


def test_claims_shows_the_numbers_of_one(run, refused):
    answer = run("claims", "expected_depth")
    assert "holds (tier C" in answer.out
    assert CLAIMS["expected_depth"].statement in answer.out
    assert run("claims", "expected_depth", "--json").document["inequalities"]
    assert "did you mean expected_depth" in refused("claims", "expected")


def test_claims_without_the_repository_says_where_they_are(
    refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(flaxarch, "__file__", str(tmp_path / "site-packages" / "flaxarch" / "__init__.py"))
    assert "in flaxarch's repository" in refused("claims", status=1)
