"""From one task to another: labels, frozen batch norm, statistics of new data, other channels."""

from functools import partial
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxarch
from flaxarch.models.cifar_resnet import CifarResNet, stage_sizes
from tests.reference import random_variables

MODEL = CifarResNet(stage_sizes(8), widths=(4, 8, 16))
IMAGES = jax.random.normal(jax.random.key(0), (12, 8, 8, 3))


@pytest.fixture(scope="module")
def variables():
    return random_variables(MODEL)


def test_labels_freeze_the_body_and_train_the_head(variables):
    params, _ = variables
    labels = flaxarch.label_params(params, {"fc/*": "head", "*": "body"})
    chex.assert_trees_all_equal_structs(labels, params)
    tx = optax.multi_transform({"head": optax.sgd(1.0), "body": optax.set_to_zero()}, labels)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    moved: Any = optax.apply_updates(params, updates)
    chex.assert_trees_all_equal(*({k: v for k, v in t.items() if k != "fc"} for t in (moved, params)))
    assert bool((moved["fc"]["kernel"] != params["fc"]["kernel"]).all())


def test_the_first_pattern_that_matches_gives_the_label(variables):
    labels = flaxarch.label_params(variables[0], {"*/bias": "a", "layer1_*": "b", "*": "c"})
    assert labels["fc"] == {"kernel": "c", "bias": "a"}
    assert labels["layer1_0"]["conv1"]["kernel"] == "b"


def test_patterns_that_label_nothing_or_leave_something_are_refused(variables):
    with pytest.raises(ValueError, match=r"'head/\*' labels no parameter; the modules are .*fc"):
        flaxarch.label_params(variables[0], {"head/*": "head", "*": "body"})
    with pytest.raises(ValueError, match="bn1/bias matches none of the patterns conv"):
        flaxarch.label_params(variables[0], {"conv*": "a"})


def test_frozen_batch_norm_trains_by_the_running_statistics(variables):
    frozen = flaxarch.freeze_batch_norm(MODEL)
    apply = flaxarch.functional(frozen).apply
    logits, moved = jax.jit(partial(apply, train=True))(*variables, IMAGES)
    expected, _ = jax.jit(partial(apply, train=False))(*variables, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(moved, variables[1])


def test_estimated_statistics_of_one_batch_are_its_own(variables):
    params, _ = variables
    batch_stats = flaxarch.estimate_batch_stats(MODEL, params, [IMAGES])
    apply = flaxarch.functional(MODEL).apply
    trained, _ = jax.jit(partial(apply, train=True))(*variables, IMAGES)
    evaluated, _ = jax.jit(partial(apply, train=False))(params, batch_stats, IMAGES)
    np.testing.assert_allclose(evaluated, trained, rtol=1e-4, atol=1e-5)


def test_estimated_statistics_of_the_stem_do_not_depend_on_how_images_are_batched(variables):
    params, _ = variables
    whole = flaxarch.estimate_batch_stats(MODEL, params, [IMAGES])["bn1"]
    parts = flaxarch.estimate_batch_stats(MODEL, params, [IMAGES[:6], IMAGES[6:10], IMAGES[10:]])["bn1"]
    chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal_dtypes(parts, whole)


def test_no_batch_has_no_statistics(variables):
    with pytest.raises(ValueError, match="no batch of images"):
        flaxarch.estimate_batch_stats(MODEL, variables[0], [])


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_images_of_equal_channels_give_what_they_gave(channels: int, tmp_path: Path):
    model = flaxarch.create("resnet20").clone(stage_sizes=(1, 1, 1))
    params, batch_stats = random_variables(model)
    flaxarch.save(tmp_path / "x.safetensors", model, {"params": params, "batch_stats": batch_stats})
    _, adapted = flaxarch.load(tmp_path / "x.safetensors", in_channels=channels)

    assert adapted["params"]["conv1"]["kernel"].shape[2] == channels
    kernels = (params["conv1"]["kernel"], adapted["params"]["conv1"]["kernel"])
    if channels in (1, 6):  # each of the file's channels as often as any other
        np.testing.assert_allclose(*(kernel.sum(axis=2) for kernel in kernels), rtol=1e-5, atol=1e-6)
    others = [{k: v for k, v in tree.items() if k != "conv1"} for tree in (params, adapted["params"])]
    chex.assert_trees_all_equal(*others)


def test_channels_are_repeated_in_order(tmp_path: Path):
    model = flaxarch.create("resnet20").clone(stage_sizes=(1, 1, 1))
    params, batch_stats = random_variables(model)
    flaxarch.save(tmp_path / "x.safetensors", model, {"params": params, "batch_stats": batch_stats})
    kernel = flaxarch.load(tmp_path / "x.safetensors", in_channels=4)[1]["params"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel, params["conv1"]["kernel"][:, :, (0, 1, 2, 0)] * 3 / 4, rtol=1e-6)
    with pytest.raises(ValueError, match="at least one channel"):
        flaxarch.load(tmp_path / "x.safetensors", in_channels=0)
