"""The file of weights that a run leaves: what reads it, and that it gives what the run had."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from PIL import Image

import flaxarch
from flaxarch.cli import main
from train.build import Run, build
from train.checkpoint import Checkpoints
from train.config import Config
from train.data import open_dataset
from train.export import WEIGHTS, preprocessing, write_weights
from train.start import make_start
from train.workdir import WorkdirError

CONFIG = Config(model="lenet5_relu", image_size=32, batch_size=32, ema_decay=0.9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run, Any]:
    """A run with its best network in `best/`, whose average is not its parameters; and that average."""
    config = dataclasses.replace(CONFIG, workdir=tmp_path_factory.mktemp("run"))
    run = build(config)
    rng, shapes = np.random.default_rng(0), jax.eval_shape(run.new_state)
    state = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes)
    checkpoints = Checkpoints(config.run_dir, run.partitioner)
    checkpoints.save_best(run.partitioner.place(state), accuracy=0.5)
    checkpoints.close()
    return config, run, state.ema


def test_the_average_is_written_where_there_is_one_and_reads_back_bit_for_bit(finished):
    config, run, average = finished
    said = write_weights(config, run)
    assert said.startswith(f"{config.run_dir / WEIGHTS}: the moving average after step 0, ")
    model, variables = flaxarch.load(config.run_dir / WEIGHTS)
    assert model == flaxarch.create("lenet5_relu", num_classes=10)
    chex.assert_trees_all_equal(variables, average)
    found = flaxarch.convert.recognise(config.run_dir / WEIGHTS)
    assert found.classes == run.data.train.class_names
    before = (config.run_dir / WEIGHTS).stat()
    assert write_weights(config, run) == said
    assert (config.run_dir / WEIGHTS).stat() == before


def test_predict_gives_pictures_the_probabilities_that_the_run_gave_them(
    finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config, run, average = finished
    write_weights(config, run)
    small = open_dataset("digits", None).test.load(np.arange(3))[0]  # 8x8, as they lie on disk
    for i, image in enumerate(small):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
    weights = str(config.run_dir / WEIGHTS)
    assert main(["predict", str(tmp_path), "--weights", weights, "--top", "10", "--json"]) == 0
    found = np.zeros((3, 10))
    for i, picture in enumerate(json.loads(capsys.readouterr().out)["pictures"]):
        for place in picture["top"]:
            found[i, int(place["name"])] = place["probability"]
    images = run.normalise(run.data.test.load(np.arange(3))[0])
    apply = jax.jit(partial(flaxarch.functional(run.model).apply, train=False))
    logits, _ = apply(average["params"], average["batch_stats"], images)
    np.testing.assert_allclose(found, jax.nn.softmax(logits), rtol=2e-5, atol=1e-7)
    assert found.std() > 0.01


def test_another_run_starts_from_it_and_normalises_as_it_did(finished):
    config, run, average = finished
    write_weights(config, run)
    start = make_start(dataclasses.replace(CONFIG, weights=config.run_dir / WEIGHTS), run.data)
    chex.assert_trees_all_equal(start.variables, average)
    assert {"mean": start.mean, "std": start.std, "channels": start.channels} == run.pixels
    assert start.mean == run.data.mean


def test_files_are_cropped_and_images_of_other_sets_stretched(finished):
    config, run, _ = finished
    assert preprocessing(config, run)["resize"] is None
    assert preprocessing(dataclasses.replace(config, data="folder"), run)["resize"] == 32


def test_weights_that_cannot_be_written_are_an_error_that_names_the_file(finished, tmp_path: Path):
    config, run, _ = finished
    (tmp_path / "best").symlink_to(config.run_dir / "best")
    (tmp_path / f"{WEIGHTS}.part").mkdir()
    with pytest.raises(WorkdirError, match=r"best\.safetensors cannot be written: "):
        write_weights(dataclasses.replace(config, workdir=tmp_path), run)
