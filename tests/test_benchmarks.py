import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import models, recipes, runs
from train.recipes import RECIPES


def test_readme_holds_the_table_that_the_kept_runs_give():
    readme = runs.README.read_text(encoding="utf-8")
    assert runs.MARKS.sub(rf"\1{runs.table()}\2", readme) == readme


def test_the_table_of_networks_is_what_the_registry_and_the_kept_comparisons_give():
    assert models.PAGE.read_text(encoding="utf-8") == models.page()


def test_the_page_of_recipes_is_what_they_are_and_what_their_first_steps_gave():
    assert recipes.PAGE.read_text(encoding="utf-8") == recipes.page()
    kept = json.loads(recipes.KEPT.read_text(encoding="utf-8"))
    assert kept.keys() == RECIPES.keys()
    for name, found in kept.items():
        assert len(found["losses"]) == recipes.STEPS, name
        assert np.isfinite([*found["losses"], found["test_loss"]]).all(), name


def test_every_kept_comparison_is_within_the_contract():
    kept = json.loads(models.PARITY.read_text(encoding="utf-8"))
    assert kept
    for name, case in kept.items():
        errors = case["errors"]
        assert errors.pop("logits") < 1e-9, name
        assert max(errors.values()) < 1e-8, name


def test_kept_run_is_a_row_with_its_curve_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    config = {"model": "resnet56", "data": "mnist", "data_dir": "here", "epochs": 2, "seed": 0}
    config |= {"weights": "there/x.pth", "freeze": ["body", "fc/*"], "freeze_batch_norm": True}
    rows = [
        {"kind": "train", "step": 5, "images_per_second": 100.0, "seconds": 9.0, "flops": 2.5e12},
        {"kind": "eval", "step": 5, "accuracy": 0.5, "seconds": 10.0},
        {"kind": "eval", "step": 10, "accuracy": 0.75, "seconds": 3600.0},
    ]
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    runs.keep(workdir, "a-run", hardware="2 cores", remark="busy")
    (row,) = [line for line in runs.table().splitlines() if "a-run" in line]
    shown = ("resnet56, a-run", "50.00, 75.00", "| 100 | 1.00 |", "2 cores (busy)", "`--model resnet56`")
    assert "| 2.5 |" in row
    for part in (*shown, "`--weights x.pth`", "`--freeze body fc/*`", "`--freeze-batch-norm`"):
        assert part in row
    assert "--data-dir" not in row
    assert "validation" not in row
    assert "--seed" not in row


def test_accuracy_on_images_held_back_for_validation_is_not_called_test_accuracy():
    rows = [{"kind": "eval", "of": "validation", "accuracy": x} for x in (0.5, 0.75)]
    assert runs.accuracies(rows) == "validation: 50.00, 75.00"
    assert (
        runs.accuracies([*rows, {"kind": "test", "accuracy": 0.7}]) == "validation: 50.00, 75.00; test: 70.00"
    )
