"""Commands run in this process, weights and pictures for them."""

import json
import tarfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import flaxarch
from flaxarch.cli import main
from flaxarch.convert.recognise import shapes_of


class Answer:
    """What a command gave."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def run(*argv: Any) -> Answer:
        capsys.readouterr()
        status = main([str(x) for x in argv])
        out, err = capsys.readouterr()
        return Answer(status, out, err)

    return run


@pytest.fixture
def refused(run):
    """A command that ends in one sentence, without a result."""

    def refused(*argv: Any, status: int = 2) -> str:
        answer = run(*argv)
        assert answer.status == status, answer.err
        assert answer.out == ""
        *_, sentence = answer.err.splitlines()
        assert sentence.startswith("error: ")
        assert "Traceback" not in answer.err
        return sentence

    return refused


@pytest.fixture(scope="session")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet-5 of random weights, in a file of flaxarch's own."""
    path = tmp_path_factory.mktemp("weights") / "lenet.safetensors"
    model = flaxarch.create("lenet5")
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes_of(model))
    flaxarch.save(path, model, variables)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("img10.png", "img2.png", "inner/x.jpg", ".hidden.png"):
        Image.fromarray(rng.integers(256, size=(30, 40, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def packed(folder: Path, suffix: str) -> Path:
    path = folder.with_suffix(suffix)
    with tarfile.open(path, "w" if suffix == ".tar" else "w:gz") as tar:
        tar.add(folder, "photos")
    return path
