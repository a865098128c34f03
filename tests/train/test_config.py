import dataclasses
import json
import re
from pathlib import Path

import pytest
import tyro

import train
from train.config import Config, ConfigError, validate
from train.workdir import claim_workdir

FIELDS = [field.name for field in dataclasses.fields(Config)]


def test_help_shows_every_field_as_a_flag_with_a_sentence(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"])
    text = capsys.readouterr().out
    for name in FIELDS:
        assert f"--{name.replace('_', '-')}" in text
    assert len(re.findall(r"\(default:\s", text)) == len(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_read_by_the_trainer(name: str):
    sources = "".join(path.read_text() for path in Path(train.__path__[0]).rglob("*.py"))
    assert re.search(rf"\b(config|self)\.{name}\b", sources)


def test_unknown_flag_exits_and_suggests_the_nearest(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        tyro.cli(Config, args=["--modle", "resnet20"])
    assert stopped.value.code == 2
    assert "--model" in capsys.readouterr().err.split("Perhaps you meant")[1]


def test_defaults_are_valid():
    validate(Config())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (Config(epochs=0), "epochs is 0; it has to be at least 1"),
        (Config(steps=0), "steps is 0; it has to be at least 1"),
        (Config(learning_rate=0.0), "learning_rate is 0.0; it has to be above 0 and finite"),
        (Config(learning_rate=float("nan")), "learning_rate is nan"),
        (Config(learning_rate=float("inf")), "learning_rate is inf"),
        (Config(momentum=1.0), "momentum is 1.0; it has to be at least 0 and below 1"),
        (Config(survival_prob=1.5), "survival_prob is 1.5; it has to be above 0 and at most 1"),
        (Config(seed=-1), "seed is -1"),
        (Config(augment="crop_flap"), "augment is 'crop_flap'; did you mean 'crop_flip'?"),  # pyright: ignore
        (Config(dtype="bfloat"), "did you mean 'bfloat16'?"),  # pyright: ignore
        (Config(schedule="one_cycle", warmup_epochs=1), "one_cycle has a warm-up of its own"),
        (Config(parallel="mesh", batch_norm_devices=1), "use parallel pmap"),
        (Config(dropout_rate=1.0), "dropout_rate is 1.0; it has to be at least 0 and below 1"),
        (Config(augment_policy="randaug"), "did you mean 'randaugment'?"),  # pyright: ignore
        (Config(crop_scale=(0.5, 0.2)), "crop_scale is 0.5 0.2; it has to be two rising numbers above 0"),
        (Config(crop_scale=(0.5, 2.0)), "the larger at most 1"),
        (Config(crop_ratio=(0.0, 1.0)), "crop_ratio is 0 1; it has to be two rising numbers above 0"),
        (Config(augment_policy="randaugment_timm", policy_magnitude=11), "has to be at most 10"),
        (Config(bce_threshold=0.2), "bce_threshold is for loss bce"),
        (Config(teacher_model="resnet20"), "teacher_model needs teacher"),
    ],
)
def test_impossible_value_is_refused_in_a_sentence(config: Config, sentence: str):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        validate(config)


def test_workdir_is_claimed_once_and_recognised_again(tmp_path: Path):
    config = Config(workdir=tmp_path / "a", data_dir=tmp_path)
    claim_workdir(config)
    written = (tmp_path / "a" / "config.json").read_bytes()
    claim_workdir(config)
    claim_workdir(dataclasses.replace(config, workers=2, save_every=7, compilation_cache=False))
    assert (tmp_path / "a" / "config.json").read_bytes() == written
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["config.json"]


def test_workdir_of_another_config_is_refused_and_every_difference_named(tmp_path: Path):
    claim_workdir(Config(workdir=tmp_path))
    written = (tmp_path / "config.json").read_bytes()
    other = Config(workdir=tmp_path, batch_size=32, seed=1, parallel="mesh")
    with pytest.raises(ConfigError, match=r"batch_size is 64 there and 32 here; parallel is .*; seed is 0"):
        claim_workdir(other)
    assert (tmp_path / "config.json").read_bytes() == written


def test_field_that_an_old_config_lacks_has_its_default(tmp_path: Path):
    claim_workdir(Config(workdir=tmp_path))
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["label_smoothing"]
    path.write_text(json.dumps(old))
    claim_workdir(Config(workdir=tmp_path))
    with pytest.raises(ConfigError, match=r"label_smoothing is 0\.0 there and 0\.1 here"):
        claim_workdir(Config(workdir=tmp_path, label_smoothing=0.1))


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_config_that_cannot_be_read_is_refused(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        claim_workdir(Config(workdir=tmp_path))
    assert (tmp_path / "config.json").read_text() == text


def test_results_without_a_config_are_not_overwritten(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"holds metrics\.jsonl but no config\.json"):
        claim_workdir(Config(workdir=tmp_path))
    assert not (tmp_path / "config.json").exists()


def test_workdir_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        claim_workdir(Config(workdir=tmp_path / "file" / "run"))
