import platform
import sys
from pathlib import Path

import pytest

from benchmarks import hardware
from benchmarks.speed import aims, report, run
from benchmarks.speed.cases import NETWORKS, Case, cases, contenders
from benchmarks.speed.contender import Contender, Interpreters

CASE = Case("resnet20", "inference", 1, "float32")


class Fixed(Contender):
    """Takes so many seconds a step."""

    def __init__(self, name: str, seconds: float):
        self.name, self.case, self.error, self._seconds = name, CASE, "", seconds
        self.about = {"compile_seconds": 1.0, "first_seconds": 2.0, "flops": 5e9, "device": "A device"}
        self.asked: list[int] = []

    def round(self, steps: int) -> dict[str, float]:
        self.asked.append(steps)
        return {"seconds": steps * self._seconds, "peak_bytes": 2**30}


def test_page_of_speed_is_what_the_kept_runs_give():
    assert report.PAGE.read_text(encoding="utf-8") == report.page()


def test_an_aim_names_its_least_its_median_and_who_missed_it():
    times = {"resnet18": (1.0, 0.5, 2.0), "resnet50": (1.0, 0.5, 0.2)}  # ours, with kernels, torch's
    rows = []
    for name, of_each in times.items():
        case = {"network": name, "mode": "training", "batch": 16, "dtype": "float32"}
        contenders = zip(("flaxarch", "kernels", "torch"), of_each, strict=True)
        rows += [{**case, "contender": who, "ratio": ratio} for who, ratio in contenders]
    lines = aims.table(rows).splitlines()[2:]
    assert lines == [
        "| ours beside torch, ResNet-18 and 50, training | 0.5 | 0.20 | 1.10 | 2 | resnet50 0.20 |",
        "| ours beside torch, training | 0.3 | 0.20 | 1.10 | 2 | resnet50 0.20 |",
        "| with native kernels beside torch, training | 0.9 | 0.40 | 2.20 | 2 | resnet50 0.40 |",
    ]


def test_ratio_is_the_others_time_over_ours_and_slow_ones_do_fewer_steps():
    ours, theirs = Fixed("flaxarch", 0.01), Fixed("torch", 0.02)
    rows = run._time([ours, theirs], rounds=5, round_seconds=0.2, case_seconds=60)
    assert [row["ratio"] for row in rows] == [1.0, 2.0]
    assert [row["ms"] for row in rows] == [10.0, 20.0]
    assert rows[0]["images_per_second"] == 100
    assert ours.asked == [1, 1, *[20] * 5]
    assert theirs.asked == [1, 1, *[10] * 5]


def test_rows_that_are_kept_are_read_as_they_were_and_replaced_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    rows = run._time([Fixed("flaxarch", 0.01), Fixed("torch", 0.02)], 3, 0.1, 60)
    path = run.keep(rows)
    assert path.name == "a-device.csv"
    assert run.read(path) == rows
    rows = run._time([Fixed("flaxarch", 0.01), Fixed("torch", 0.05)], 3, 0.1, 60)
    run.keep(rows)
    assert run.read(path) == rows


def test_a_cpu_has_a_file_of_its_name_and_older_rows_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: A (R) CPU @ 2 GHz\n\nprocessor\t: 1\n"
    )
    monkeypatch.setattr(hardware, "_CPUINFO", info)
    assert hardware.cpu() == "A (R) CPU @ 2 GHz, family 6, model 143"
    row = {"device": "cpu", "cores": 2, "cpu": hardware.cpu()}
    assert run.path_of(row).name == "2-cores-of-a-r-cpu-2-ghz-family-6-model-143.csv"
    assert run.path_of({"device": "cpu", "cores": 2}).name == "2-cpu-cores.csv"
    info.write_text("processor\t: 0\nmodel name\t: ARMv7\n")
    assert hardware.cpu() == platform.machine()


def test_contender_that_is_not_there_says_why_and_answers_nothing():
    contender = Contender("nobody", CASE, Interpreters(), timeout=60)
    contender.wait_ready()
    assert contender.error == "ModuleNotFoundError: No module named 'benchmarks.speed.contenders.of_nobody'"
    assert contender.round(3) == {}
    contender.close()


def test_interpreters_have_a_python_and_a_file():
    found = Interpreters.parse([f"torch={sys.executable}", f"flax_example=,{__file__}"])
    assert found.pythons == {"torch": sys.executable, "torch_compile": sys.executable}
    assert found.paths == {"flax_example": __file__}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("torch=/no/python", "/no/python, named for torch, is no program"),
        ("flax_example=,no.py", "no.py, named for flax_example, is no file"),
        ("pytorch=python", "'pytorch' is none of the contenders kernels, "),
    ],
)
def test_interpreters_that_are_not_there_are_named(text: str, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        Interpreters.parse([text])


def test_every_network_is_measured_in_both_precisions_and_ways():
    for name in NETWORKS:
        for on_cpu in (True, False):
            found = cases(name, on_cpu)
            assert {(case.mode, case.dtype) for case in found} == {
                (mode, dtype) for mode in ("inference", "training") for dtype in ("float32", "bfloat16")
            }
            assert all(contenders(case)[:3] == ["flaxarch", "kernels", "torch"] for case in found)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_we_run(mode: str):
    case = CASE._replace(mode=mode, batch=2)
    contender = Contender("flaxarch", case, Interpreters(), timeout=300)
    contender.wait_ready()
    assert contender.error == ""
    assert contender.about["flops"] > 2 * 2 * 40e6  # two images of 40.6 million multiply-adds
    assert contender.round(2)["seconds"] > 0
    contender.close()
