"""Runs that start from weights: what trains, what is kept, and how images come to the network."""

import dataclasses
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
from flaxarch.models.airbench import Airbench
from train.checkpoint import load_variables
from train.config import Config, ConfigError
from train.data import ArraySource, Dataset, open_dataset
from train.loop import train
from train.start import layer_scales, make_start
from train.step import normalise

ONE_STEP = Config(model="lenet5_relu", image_size=32, steps=2, batch_size=32, schedule="constant")


def variables_of(model: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    images, rng = jax.ShapeDtypeStruct((1, *shape), jnp.float32), np.random.default_rng(0)
    params, batch_stats = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    shapes = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A file of weights for grey images and 7 classes."""
    path = tmp_path_factory.mktemp("weights") / "lenet.safetensors"
    model = flaxarch.create("lenet5_relu", num_classes=7)
    variables = variables_of(model, (32, 32, 1))
    flaxarch.save(path, model, variables)
    return path, variables


def test_frozen_body_stays_bit_for_bit_and_the_head_is_new_and_trains(lenet, tmp_path: Path):
    path, variables = lenet
    screen = StringIO()
    config = dataclasses.replace(ONE_STEP, weights=path, freeze=("body",), workdir=tmp_path / "run")
    train(config, Console(file=screen, width=200))
    assert "has a head of 7 classes: the body is loaded, and the head of 10 is new" in screen.getvalue()
    found = load_variables(tmp_path / "run" / "last")["params"]
    head = found.pop("output")
    body = {name: x for name, x in variables["params"].items() if name != "output"}
    chex.assert_trees_all_equal(found, body)
    assert head["kernel"].shape == (84, 10)
    assert (head["bias"] != 0).any()

    train(config, Console(file=screen, width=200))
    assert "this run is finished" in screen.getvalue()


def test_without_freezing_every_parameter_moves(lenet, tmp_path: Path):
    path, variables = lenet
    train(dataclasses.replace(ONE_STEP, weights=path, workdir=tmp_path / "run"), Console(file=StringIO()))
    found = load_variables(tmp_path / "run" / "last")["params"]
    for name in ("c1", "c3", "c5", "f6"):
        assert (found[name]["kernel"] != variables["params"][name]["kernel"]).any()


def test_images_are_normalised_as_those_of_the_weights(lenet):
    data = open_dataset("digits", None, image_size=32, skip_unreadable=False)
    start = make_start(dataclasses.replace(ONE_STEP, weights=lenet[0]), data)
    row = flaxarch.published("lenet5_relu")
    assert (start.mean, start.std) == (row.mean, row.std)
    assert start.mean != data.mean
    scratch = make_start(ONE_STEP, data)
    assert (scratch.mean, scratch.std, scratch.variables) == (data.mean, data.std, None)


def test_colour_weights_on_grey_images_take_the_mean_of_the_channels(tmp_path: Path):
    model = flaxarch.create("resnet20")
    flaxarch.save(tmp_path / "x.safetensors", model, variables_of(model, (32, 32, 3)))
    data = open_dataset("digits", None, image_size=None, skip_unreadable=False)
    start = make_start(Config(weights=tmp_path / "x.safetensors", freeze=("layer[12]_*",)), data)
    assert start.mean == (pytest.approx(np.mean([0.485, 0.456, 0.406])),)
    assert start.variables is not None
    assert start.variables["params"]["conv1"]["kernel"].shape == (3, 3, 1, 16)
    assert start.each.labels["layer1_0"]["conv1"]["kernel"] == "frozen"
    assert start.each.labels["layer3_0"]["conv1"]["kernel"] == "trained"


def test_normalisation_that_the_file_states_goes_before_the_rows(tmp_path: Path):
    model, own = flaxarch.create("lenet5_relu"), {"mean": (0.25,), "std": (0.5,)}
    variables = variables_of(model, (32, 32, 1))
    flaxarch.save(tmp_path / "x.safetensors", model, variables, preprocessing=own)
    data = open_dataset("digits", None, image_size=32, skip_unreadable=False)
    start = make_start(dataclasses.replace(ONE_STEP, weights=tmp_path / "x.safetensors"), data)
    assert (start.mean, start.std) == ((0.25,), (0.5,))


def test_blue_comes_first_where_the_weights_want_it():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)), jnp.uint8)
    mean, std = (0.1, 0.2, 0.3), (1.0, 2.0, 4.0)
    expected = normalise(images, mean[::-1], std[::-1])[..., ::-1]
    chex.assert_trees_all_close(normalise(images, mean, std, "BGR"), expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": Path("nowhere.pth")}, "weights: .*nowhere.pth"),
        ({"freeze": ("layer9_*",)}, "freeze: 'layer9_.' labels no parameter; the modules are c1, "),
        ({"freeze": ("*",)}, "freeze: nothing is left to train"),
        ({"freeze": ("body", "output/*")}, "freeze: nothing is left to train"),
    ],
    ids=str,
)
def test_what_cannot_be_started_from_is_one_sentence(changes: dict[str, Any], sentence: str):
    data = open_dataset("digits", None, image_size=32, skip_unreadable=False)
    with pytest.raises(ConfigError, match=sentence) as error:
        make_start(dataclasses.replace(ONE_STEP, **changes), data)
    assert "\n" not in str(error.value)


def test_dropout_is_the_networks_field():
    data = open_dataset("digits", None, image_size=32)
    start = make_start(dataclasses.replace(ONE_STEP, model="mobilenet_v2_035", dropout_rate=0.35), data)
    assert start.model.dropout_rate == 0.35  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match="dropout_rate is for networks with dropout; lenet5_relu has none"):
        make_start(dataclasses.replace(ONE_STEP, dropout_rate=0.35), data)


def test_weights_of_another_network_are_refused(lenet):
    data = open_dataset("digits", None, image_size=32, skip_unreadable=False)
    with pytest.raises(
        ConfigError, match=r"weights: lenet.safetensors holds a lenet5_relu, not a .*: --model"
    ):
        make_start(dataclasses.replace(ONE_STEP, model="lenet5", weights=lenet[0]), data)


def test_layers_are_scaled_by_their_distance_from_the_head():
    model = flaxarch.create("lenet5_relu")
    params = variables_of(model, (32, 32, 1))["params"]
    scales = layer_scales(model, params, (32, 32, 1), 0.5)
    found = {name: set(jax.tree.leaves(tree)) for name, tree in scales.items()}
    assert found == {"c1": {1 / 16}, "c3": {1 / 8}, "c5": {1 / 4}, "f6": {1 / 2}, "output": {1.0}}


@pytest.mark.slow
def test_whitening_kernel_stays_and_its_bias_stops_after_its_epochs(tmp_path: Path):
    config = Config(
        model="airbench94",
        image_size=9,
        steps=4,
        batch_size=712,  # two updates an epoch
        schedule="constant",
        weight_decay=0.1,
        decay_all=True,
        whiten=True,
        whiten_bias_epochs=1.0,
        save_every=2,
        workdir=tmp_path / "run",
    )
    tiny = Airbench((4, 4, 4), num_classes=10)
    with mock.patch("flaxarch.create", return_value=tiny):
        data = open_dataset("digits", None, image_size=9)
        kernel = make_start(config, data).whitening
        assert kernel is not None
        assert kernel.shape == (2, 2, 1, 8)  # of grey images, which have patches of four values
        train(config, Console(file=StringIO(), width=200))
    first, last = (load_variables(tmp_path / "run" / "last", step)["params"] for step in (2, 4))
    for params in first, last:
        np.testing.assert_array_equal(params["whiten"]["kernel"], kernel)
    assert (first["whiten"]["bias"] != 0).any()
    np.testing.assert_array_equal(first["whiten"]["bias"], last["whiten"]["bias"])
    assert (first["fc"]["kernel"] != last["fc"]["kernel"]).all()


def test_whitening_sees_images_of_all_classes_though_these_stand_one_after_the_other():
    rng = np.random.default_rng(0)
    images = np.full((6000, 9, 9, 1), 7, np.uint8)  # of the first class, all grey
    images[5500:] = rng.integers(0, 256, (500, 9, 9, 1))
    source = ArraySource(images, np.repeat([0, 1], (5500, 500)).astype(np.int32), ("a", "b"))
    config = Config(model="airbench94", whiten=True, batch_size=8)
    kernel = make_start(config, Dataset(source, source, (0.5,), (0.25,))).whitening
    assert kernel is not None
    norms = np.linalg.norm(kernel.reshape(4, 8), axis=0)
    assert norms.max() < 0.5 / np.sqrt(5e-4)  # grey patches alone leave three directions without variance


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"whiten": True}, "whiten is for networks with a layer for it, as airbench94; lenet5_relu has none"),
        (
            {"whiten_bias_epochs": 1.0},
            "whiten_bias_epochs is of the layer that whiten sets; give --whiten too",
        ),
        ({"norm_bias_scale": 2.0}, "norm_bias_scale is for networks with batch norm; lenet5_relu has none"),
        ({"norm_bias_scale": 2.0, "optimizer": "adamw"}, "norm_bias_scale is of sgd; adamw undoes a scale"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        make_start(dataclasses.replace(ONE_STEP, **changes), open_dataset("digits", None, image_size=32))


def test_biases_of_batch_norm_alone_have_their_scale():
    config = Config(model="resnet20", norm_bias_scale=64.0)
    scales: Any = make_start(config, open_dataset("digits", None)).each.gradient_scales
    assert scales["bn1"] == {"scale": 1.0, "bias": 64.0}
    assert scales["layer1_0"]["bn2"]["bias"] == 64.0
    assert scales["fc"] == {"kernel": 1.0, "bias": 1.0}
