"""A few of the files of `python -m benchmarks.fuzz`, and the record of its last whole run."""

import json

import pytest

from benchmarks.fuzz import __main__ as fuzz
from benchmarks.fuzz import page
from benchmarks.fuzz.bases import base
from benchmarks.fuzz.cases import FORMATS, write
from benchmarks.fuzz.judge import MOST_SECONDS, Watch, load, trace_once, warm

NUM_FILES = 25


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        trace_once(patch.setattr)
        warm(tmp_path_factory.mktemp("warm"))
        yield Watch()


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_mutated_file_loads_or_is_refused_in_one_sentence_that_names_the_place(fmt: str, watch, tmp_path):
    for number in range(NUM_FILES):
        case = write(fmt, number, tmp_path / str(number))
        outcome = load(case, watch)
        assert outcome.kind in fuzz.SOUND, (number, case.mutation, outcome)


def test_the_watch_notices_what_is_executed_or_written(watch, tmp_path, monkeypatch):
    def harmful(path, name):
        (path.parent / "canary").write_text("")

    case = write(".pth", 0, tmp_path / "case")
    monkeypatch.setattr("flaxarch.load", harmful)
    outcome = load(case, watch)
    assert outcome.kind == "executed"
    assert "canary" in outcome.events[0]


def test_the_same_numbers_give_the_same_files(tmp_path):
    for fmt in FORMATS:
        contents = []
        for _ in range(2):
            case = write(fmt, 3, tmp_path / "case")
            contents.append([(file.name, file.read_bytes()) for file in sorted(case.path.parent.iterdir())])
            for file in case.path.parent.iterdir():
                file.unlink()
            case.path.parent.rmdir()
        assert contents[0] == contents[1], fmt


def test_the_networks_of_the_sound_files_have_every_leaf():
    assert len(base("lenet5").tensors) == 10
    assert len(base("resnet8_keras").tensors) == 48


def test_the_last_whole_run_had_no_failure():
    kept = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    assert list(kept["formats"]) == list(FORMATS)
    for fmt, counts in kept["formats"].items():
        assert counts["files"] == fuzz.COUNT == sum(counts[kind] for kind in fuzz.SOUND), fmt
        assert counts["failures"] == {}, fmt
        assert counts["executed"] == 0, fmt
        assert counts["slowest seconds"] < MOST_SECONDS, fmt
        assert counts["peak MiB"] < 2048, fmt


def test_the_page_is_what_the_record_gives():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
