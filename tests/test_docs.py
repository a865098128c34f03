"""The README and the pages of `docs/`: their snippets run, their commands parse, their site stands."""

import json
import re
import shlex
import sys
import tomllib
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flaxarch
import train.__main__
import train.data.__main__
import train.report
from flaxarch import cli
from flaxarch.convert import write_torch
from train.config import Config, validate

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path, language: str) -> list[tuple[str, int]]:
    """The code of a page's fences of a language, and the lines at which it begins."""
    text = page.read_text(encoding="utf-8")
    return [
        (found[2], text.count("\n", 0, found.start()) + 2)
        for found in FENCE.finditer(text)
        if found[1] == language
    ]


# Snippets. Those of a page run one after the other in one namespace, in a folder that has the files of
# `write_files`. Nothing marks a snippet as one that does not run.

# Of the other pages some network or training takes long to compile.
QUICK = ("docs/index.md", "docs/guides/fine_tune.md")

RNG = np.random.default_rng(0)
# Data that a snippet does not make itself, by the page and a line of the snippet
GIVEN: dict[tuple[str, str], dict[str, Any]] = {
    ("README.md", "from flaxarch import depth"): {
        "images": RNG.normal(size=(4, 32, 32, 3)).astype(np.float32),
        "labels": np.arange(4),
    },
}


def random_variables(name: str, in_channels: int = 3) -> tuple[Any, Any]:
    """A network of random weights; batch statistics are one."""
    model = flaxarch.create(name)
    images = jax.ShapeDtypeStruct((1, 32, 32, in_channels), np.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    draw = lambda x: RNG.normal(0, 0.1, x.shape).astype(np.float32)  # noqa: E731
    stats = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes.get("batch_stats", {}))
    return model, {"params": jax.tree.map(draw, shapes["params"]), "batch_stats": stats}


FILES = {
    "resnet50-0676ba61.pth": "resnet50",
    "resnet32.th": "resnet32",
    "resnet20-12fca82f.th": "resnet20",
    "runs/resnet20-digits/best.safetensors": "resnet20",  # what `python -m train` leaves
}


def write_files(page: Path, folder: Path) -> None:
    """The files that a page's snippets read, of random weights."""
    text = "".join(code for code, _ in blocks_of(page, "python"))
    for file, name in FILES.items():
        if file not in text:
            continue
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".safetensors"):
            flaxarch.save(folder / file, *random_variables(name, in_channels=1))
        else:
            write_torch(folder / file, flaxarch.to_torch(*random_variables(name)))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if name_of(page) in QUICK else [pytest.mark.slow])
        for page in PAGES
        if blocks_of(page, "python")
    ],
    ids=name_of,
)
@pytest.mark.filterwarnings("ignore:.* the head of 3 is new:UserWarning")
def test_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "snippets"}
    for code, line in blocks_of(page, "python"):
        for (name, marker), given in GIVEN.items():
            if name == name_of(page) and marker in code.splitlines():
                namespace |= given
        source = "\n" * (line - 1) + code  # for tracebacks to name the page's line
        exec(compile(source, str(page), "exec"), namespace)


def test_every_snippet_is_python_to_be_run_or_a_command_or_a_listing():
    for page in PAGES:
        languages = [language for language, _ in FENCE.findall(page.read_text(encoding="utf-8"))]
        assert set(languages) <= {"python", "", "text"}, page
        for code, _ in blocks_of(page, "text"):
            assert not re.search(r"import|\(.*\)|=", code), f"{page}: this may be Python, and does not run"


# Commands


def commands_of(page: Path) -> list[list[str]]:
    """The words of each command, without comments, what stands around `&&`, and its environment."""
    found = []
    for code, _ in blocks_of(page, ""):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            while "&&" in words:
                found.append(words[: words.index("&&")])
                words = words[words.index("&&") + 1 :]
            found.append(words)
    return [words for words in found if words]


COMMANDS = [(name_of(page), words) for page in PAGES for words in commands_of(page)]


@pytest.fixture
def run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are parsed, and then do nothing."""
    for command in cli.COMMANDS:
        monkeypatch.setattr(command, "run", lambda self: 0)

    def check(config: Config) -> int:
        validate(config)
        return 0

    monkeypatch.setattr(train.__main__, "run", check)
    monkeypatch.setattr(train.data.__main__, "pack", lambda *_, **__: {"splits": {}})


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_a_command_is_understood(
    page: str, words: list[str], run_nothing: None, monkeypatch: pytest.MonkeyPatch
):
    mains = {"train": train.__main__.main, "train.data": train.data.__main__.main}
    match words:
        case ["flaxarch", *arguments]:
            assert cli.main(arguments) == 0
        case ["python", "-m", "train" | "train.data" as module, *arguments]:
            monkeypatch.setattr(sys, "argv", [module, *arguments])
            assert mains[module]() == 0
        case ["python", "-m", module, *arguments]:
            assert find_spec(module)
            assert not [word for word in arguments if word.startswith("-")], "its flags are not checked here"
        case ["pip", "install", "-e", what]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            extras = re.findall(r"[\w-]+", what.partition("[")[2])
            assert set(extras) <= project["optional-dependencies"].keys()
        case ["pytest"] | ["mkdocs", "build", "--strict"]:
            pass
        case _:
            pytest.fail(f"{page}: nothing here tells whether this is right")


# The notebook

NOTEBOOK = ROOT / "docs" / "notebook" / "lineage.ipynb"


def test_the_notebook_is_small_and_kept_as_it_ran_from_a_fresh_start():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert NOTEBOOK.stat().st_size < 2**20
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    assert "error" not in {output["output_type"] for output in outputs}


@pytest.mark.slow
def test_the_notebook_runs_from_a_fresh_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()
