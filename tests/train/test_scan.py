"""Runs whose network has its blocks in a loop: what they keep is of the ordinary form."""

import dataclasses
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import flaxarch
from flaxarch.loops import stack_blocks
from train.build import build
from train.checkpoint import load_variables
from train.config import Config, ConfigError
from train.data import open_dataset
from train.diagnose import first_nonfinite
from train.guard import Stop, Stopped
from train.loop import train
from train.start import make_start

SCANNED = Config(model="resnet20", scan=True, steps=4, save_every=2, log_every=1, batch_size=32)


def create(name: str, num_classes: int | None = None, **fields: Any) -> Any:
    """In the place of flaxarch.create: a stage of narrow blocks, made of the same row."""
    model: Any = flaxarch.registry.create(name, num_classes, **fields)
    return model.clone(stage_sizes=(3,), widths=(4,)) if hasattr(model, "loops") else model


@pytest.fixture(autouse=True)
def narrow_networks():
    with mock.patch("flaxarch.create", create):
        yield


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "lenet5_relu"}, "scan is for networks with stages of blocks, as ResNets; lenet5_relu is"),
        ({"optimizer": "lamb"}, "scan stacks parameters of blocks, which lamb treats each by itself"),
        ({"optimizer": "muon"}, "scan stacks parameters of blocks, which muon treats each by itself"),
        ({"layer_decay": 0.9}, "scan stacks blocks, between which layer_decay differs"),
        ({"freeze": ("layer1_1/*",)}, "freeze: 'layer1_1/.' labels no parameter"),
    ],
)
def test_what_does_not_go_with_a_loop_is_refused(changes: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        make_start(dataclasses.replace(SCANNED, **changes), open_dataset("digits", None))


def test_weights_of_the_ordinary_form_start_a_loop_stacked(tmp_path: Path):
    model = create("resnet20", 10)
    images = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes)
    flaxarch.save(tmp_path / "a.safetensors", model, variables)
    config = dataclasses.replace(SCANNED, weights=tmp_path / "a.safetensors")
    start = make_start(config, open_dataset("digits", None))
    chex.assert_trees_all_equal(start.variables, stack_blocks(model, variables))
    assert start.model.scan  # pyright: ignore[reportAttributeAccessIssue]


def test_block_that_is_not_finite_is_named_though_it_is_in_a_loop():
    run = build(SCANNED)
    state = jax.eval_shape(run.new_state)
    state = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), state)
    state.params["layer1_1_to_2"]["conv2"]["kernel"][1, 0, 0, 0, 0] = np.nan
    assert first_nonfinite(run.model, state, {}, run.normalise, 0) == "the parameter layer1_2/conv2/kernel"


@pytest.mark.slow
def test_resumed_run_in_a_loop_is_the_unbroken_one_and_leaves_ordinary_weights(tmp_path: Path):
    config = dataclasses.replace(SCANNED, ema_decay=0.9)
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    train(dataclasses.replace(config, workdir=unbroken), Console(file=StringIO()))
    config = dataclasses.replace(config, workdir=resumed)
    with mock.patch.object(Stop, "after_step", side_effect=[False, True]), pytest.raises(Stopped):
        train(config, Console(file=StringIO()))
    train(config, Console(file=StringIO()))
    for folder in ("last", "best"):
        found, expected = (load_variables(run_dir / folder) for run_dir in (resumed, unbroken))
        chex.assert_trees_all_equal(found, expected)
    names = {"bn1", "conv1", "fc", "layer1_0", "layer1_1", "layer1_2"}
    assert set(found["params"]) == names
    momentum = load_variables(resumed / "last", item="training")["opt_state"]
    keys = {getattr(key, "key", None) for path, _ in jax.tree.leaves_with_path(momentum) for key in path}
    assert names <= keys
    model, variables = flaxarch.load(resumed / "best.safetensors")
    assert not model.scan  # pyright: ignore[reportAttributeAccessIssue]
    chex.assert_trees_all_equal(variables, found["ema"])
