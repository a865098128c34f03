"""The command as a whole, `list` and `summary`."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import flaxarch
from flaxarch.commands.summary import Summary

ROOT = Path(__file__).parents[2]


# The command itself


def test_the_command_is_installed_and_answers_without_importing_jax():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"flaxarch": "flaxarch.cli:main"}
    command = [sys.executable, "-X", "importtime", "-m", "flaxarch", "list", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--max-params" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"jax", "flax", "numpy", "PIL"}


def test_without_arguments_the_help_is_shown(run):
    answer = run()
    assert answer.status == 0
    assert all(name in answer.out for name in ("list", "summary", "convert", "predict"))


def test_shells_can_complete_it(run):
    answer = run("--tyro-print-completion", "bash")
    assert answer.status == 0
    assert "--max-params" in answer.out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["lst"], "there is no command 'lst': did you mean list?"),
        (
            ["frobnicate"],
            "there is no command 'frobnicate': there are list, summary, compare, convert, predict",
        ),
        (["--json", "list"], "--json comes before a command"),
        (["list", "--max-parms", "3"], "unrecognized options: --max-parms, 3: did you mean --max-params?"),
        (["list", "--sort", "size"], "invalid choice 'size' for argument '--sort'"),
        (["list", "--sort"], "missing value for argument '--sort'"),
        (["summary"], "missing from flaxarch summary: NAME; `flaxarch summary --help` has all flags"),
        (["summary", "lenet5", "--depth", "x"], "--depth is 'x': it has to be a whole number"),
        (["summary", "lenet5", "--input-shape", "8", "8"], "--input-shape is 8 8: it has to be 3 whole num"),
        (["summary", "lenet5", "resnet20"], "unrecognized options: resnet20"),
        (["predict", "cat.jpg"], "missing from flaxarch predict: --weights PATH"),
    ],
)
def test_wrong_flags_are_one_sentence(argv: list[str], sentence: str, refused):
    said = refused(*argv)
    assert said.startswith(f"error: {sentence}")
    assert "--- " not in said


def test_debug_shows_where_an_error_arose(run, tmp_path: Path):
    answer = run("convert", tmp_path / "nowhere.pth", tmp_path / "x.pth", "--debug")
    assert answer.status == 2
    assert "Traceback" in answer.err
    assert answer.err.splitlines()[-1].endswith("nowhere.pth: No such file or directory")


def test_an_error_that_nobody_expected_is_a_sentence_too(refused, monkeypatch: pytest.MonkeyPatch):
    def broken(self: Summary) -> int:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(Summary, "run", broken)
    assert "ZeroDivisionError, which flaxarch did not expect" in refused("summary", "lenet5", status=1)


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m flaxarch list --json | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.split()[-1] in ("0", "141")  # 0: all of it fitted into the pipe


# list


def test_list_has_every_network(run):
    answer = run("list", "--json")
    assert [row["name"] for row in answer.document] == flaxarch.list_models()
    names = [line.split()[0] for line in run("list").out.splitlines()]
    assert names == ["name", *flaxarch.list_models()]


def test_list_sorts_and_filters(run):
    rows = run("list", "--json", "--sort", "macs", "--max-params", "1.5M", "--max-macs", "60000k").document
    assert rows
    assert all(row["num_params"] <= 1_500_000 and row["macs"] <= 60_000_000 for row in rows)
    assert [row["macs"] for row in rows] == sorted(row["macs"] for row in rows)


@pytest.mark.parametrize(
    ("source", "name", "other"),
    [
        ("KERAS", "resnet50_keras", "resnet50"),
        ("paper", "resnet110", "resnet50"),
        ("He et al", "resnet110", "alexnet_2012"),
    ],
)
def test_list_filters_by_source(source: str, name: str, other: str, run):
    names = [row["name"] for row in run("list", "--json", "--source", source).document]
    assert name in names
    assert other not in names


def test_list_takes_a_pattern_or_a_part_of_the_name(run):
    assert [row["name"] for row in run("list", "resnet2?", "--json").document] == ["resnet20"]
    assert "seresnet50" in [row["name"] for row in run("list", "seresnet5", "--json").document]


def test_a_limit_that_nothing_meets_leaves_an_empty_list(run):
    answer = run("list", "--max-params", "10", "--json")
    assert (answer.status, answer.document) == (1, [])
    assert "none is left" in answer.err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["resnt50"], "no network's name fits 'resnt50': did you mean resnet50"),
        (["--max-params", "many"], "--max-params is 'many'"),
        (["--max-macs", "-3G"], "--max-macs is '-3G'"),
        (["--source", "caffeine"], "no network's source has 'caffeine'"),
    ],
)
def test_list_refuses(argv: list[str], sentence: str, refused):
    assert sentence in refused("list", *argv)


# summary


def test_summary_adds_up(run):
    document = run("summary", "resnet20", "--json", "--depth", "0").document
    row = flaxarch.published("resnet20")
    assert (document["num_params"], document["macs"]) == (row.num_params, row.macs)
    assert sum(module["num_params"] for module in document["modules"]) == row.num_params
    block = next(module for module in document["modules"] if module["name"] == "layer2_0")
    assert block["kind"] == "BasicBlock"
    assert block["output_shape"] == [16, 16, 32]
    assert sum(module["macs"] for module in block["modules"]) == block["macs"]
    assert document["preprocessing"]["mean"] == list(row.mean)


def test_a_block_that_joins_branches_has_the_output_of_them_all(run):
    modules = run("summary", "squeezenet1_1", "--json").document["modules"]
    shapes = {module["name"]: module["output_shape"] for module in modules}
    assert shapes["fire2"][-1] == 128


def test_summary_draws_a_tree(run):
    lines = run("summary", "lenet5").out.splitlines()
    assert lines[0].split() == ["module", "kind", "output", "params", "MACs", "sees"]
    assert lines[1].split() == ["c1", "conv", "5x5", "28x28x6", "156", "117,600", "5x5"]
    assert "61,706 parameters" in lines[-3]
    deep = run("summary", "resnet20", "--depth", "2").out
    assert "├ conv1" in deep
    assert "└ bn2" in deep
    assert "├" not in run("summary", "resnet20").out


def test_summary_of_another_input_and_head(run):
    document = run("summary", "resnet20", "--json", "--input-shape", 64, 48, 1, "--num-classes", 3).document
    assert document["input_shape"] == [64, 48, 1]
    assert document["modules"][0]["output_shape"] == [64, 48, 16]
    assert document["modules"][-1]["output_shape"] == [3] or document["modules"][-2]["output_shape"] == [3]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["resnet2O"], "there is no model named 'resnet2O': did you mean"),
        (["resnet20", "--depth", "-1"], "--depth is -1"),
        (["resnet20", "--num-classes", "0"], "num_classes is 0"),
        (["resnet20", "--input-shape", "0", "32", "3"], "positive integers"),
        (["resnet20", "--input-shape", "32", "32"], "it has to be 3 whole numbers"),
        (["alexnet", "--input-shape", "8", "8", "3"], "needs images of at least"),
    ],
)
def test_summary_refuses(argv: list[str], sentence: str, refused):
    assert sentence in refused("summary", *argv)


# the package


def test_public_names_are_found_whichever_module_is_imported_first():
    code = (
        "import flaxarch.functional, flaxarch.preprocess, flaxarch\n"
        "assert callable(flaxarch.functional) and callable(flaxarch.preprocess)\n"
        "from flaxarch import *\n"
        "assert all(callable(getattr(flaxarch, name)) for name in flaxarch.__all__)\n"
        "assert flaxarch.convert.load is load\n"
        "assert not hasattr(flaxarch, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
