"""Learning from the outputs of another network."""

import dataclasses
from io import StringIO
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import flaxarch
from tests.train.tiny_net import random_batch
from train.config import Config, ConfigError
from train.data import Dataset, open_dataset
from train.loop import train
from train.losses import Distillation, cross_entropy_sum, distillation_sum
from train.parallel import MeshPartitioner, PmapPartitioner
from train.report import read_rows
from train.step import TrainState, make_train_step, normalise
from train.teacher import make_teacher

CONFIG = Config(model="lenet5_relu", image_size=32, steps=2, batch_size=32, schedule="constant")
MEAN, STD = (0.4,), (0.3,)


def linear(variables: Any, images: jax.Array) -> jax.Array:
    return images.reshape(len(images), -1) @ variables["kernel"]


class Linear:
    """As much of a network as a step needs."""

    def apply(self, variables: Any, images: jax.Array, **_: Any) -> tuple[jax.Array, dict[str, Any]]:
        return linear(variables["params"], images), {}


def of_teacher(variables: Any, pixels: jax.Array) -> jax.Array:
    return linear(variables, pixels / 100.0)


def state_and_teacher() -> tuple[TrainState, Any]:
    rng = np.random.default_rng(0)
    student, teacher = ({"kernel": rng.normal(0, 0.1, (64, 10)).astype(np.float32)} for _ in range(2))
    return TrainState(jnp.int32(0), student, {}, optax.sgd(0.1).init(student)), teacher


def step_of(**options: Any) -> Any:
    distillation = Distillation(of_teacher, weight=0.7, temperature=3.0)
    model: Any = Linear()
    return make_train_step(
        model, optax.sgd(0.1), seed=0, mean=MEAN, std=STD, distillation=distillation, **options
    )


def test_loss_is_the_labels_and_the_teachers_by_their_weights():
    (state, teacher), batch = state_and_teacher(), random_batch(0)

    def value(params: Any) -> jax.Array:
        images, mask = jnp.asarray(batch["image"]), batch["mask"]
        logits = linear(params, normalise(images, MEAN, STD))
        of_labels = cross_entropy_sum(logits, batch["label"], mask)
        of_outputs = distillation_sum(logits, of_teacher(teacher, images), mask, 3.0)
        return (0.3 * of_labels + 0.7 * of_outputs) / 32

    after, metrics = jax.jit(step_of())(state, batch, None, teacher)
    loss, gradient = jax.jit(jax.value_and_grad(value))(state.params)
    assert float(metrics["loss"]) == pytest.approx(32 * float(loss), rel=1e-5)
    expected = jax.tree.map(lambda x, g: x - 0.1 * g, state.params, gradient)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("partitioner", "options"), [(PmapPartitioner, {"accumulate": 2}), (MeshPartitioner, {"remat": "all"})]
)
def test_any_devices_and_parts_learn_the_same(partitioner: Any, options: dict[str, Any]):
    (state, teacher), batch = state_and_teacher(), random_batch(0)
    expected = jax.jit(step_of())(state, batch, None, teacher)
    devices = partitioner(jax.devices()[:4])
    step = devices.compile_train(step_of(**options), teacher)
    found = step(devices.place(state), devices.shard_batch(batch))
    chex.assert_trees_all_close(jax.device_get(found), jax.device_get(expected), rtol=1e-4, atol=1e-6)


def test_teachers_parameters_are_no_part_of_the_program():
    state, teacher = state_and_teacher()
    text = jax.jit(step_of()).lower(state, random_batch(0), None, teacher).as_text()
    assert "tensor<64x10xf32>" in text
    assert not [line for line in text.splitlines() if "constant dense" in line and "64x10" in line]


# From a file


@pytest.fixture(scope="module")
def data() -> Dataset:
    return open_dataset("digits", None, image_size=32)


def save_lenet(path: Path, num_classes: int) -> Path:
    model, rng = flaxarch.create("lenet5_relu", num_classes=num_classes), np.random.default_rng(0)
    images = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    params, _ = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), params)
    flaxarch.save(path, model, {"params": params, "batch_stats": {}})
    return path


def test_teacher_sees_images_as_its_own_were_normalised(data: Dataset, tmp_path: Path):
    path = save_lenet(tmp_path / "teacher.safetensors", 10)
    config = dataclasses.replace(CONFIG, teacher=path, distil_weight=0.25, distil_temperature=2.0)
    teacher = make_teacher(config, data)
    assert teacher is not None
    assert teacher.distillation[1:] == (0.25, 2.0)
    model, variables = flaxarch.load(path)
    row = flaxarch.published("lenet5_relu")
    images = jnp.asarray(data.train.load(np.arange(4))[0])
    expected: Any = model.apply(variables, normalise(images, row.mean, row.std), train=False)
    found = teacher.distillation.teacher(teacher.variables, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert make_teacher(CONFIG, data) is None


def test_a_run_learns_from_its_teacher(tmp_path: Path):
    path = save_lenet(tmp_path / "teacher.safetensors", 10)
    config = dataclasses.replace(
        CONFIG,
        steps=3,
        weights=path,  # the teacher's own
        teacher=path,
        distil_weight=1.0,
        learning_rate=1e-9,
        augment="crop",
        augment_policy="trivialaugment",
        erase_probability=0.5,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        workdir=tmp_path / "run",
    )
    train(config, Console(file=StringIO()))
    [row] = [row for row in read_rows(config.run_dir / "metrics.jsonl") if row["kind"] == "train"]
    assert row["loss"] == pytest.approx(0, abs=1e-4)  # of an equal network, on the same images


@pytest.mark.parametrize(
    ("num_classes", "changes", "sentence"),
    [
        (10, {"teacher": Path("nowhere.pth")}, "teacher: .*nowhere.pth"),
        (10, {"teacher_model": "lenet5"}, "teacher: teacher.safetensors holds a lenet5_relu, not a lenet5"),
        (7, {}, "teacher .*teacher.safetensors has 7 classes, and the data has 10"),
        (10, {"image_size": 16}, "teacher .*teacher.safetensors does not take these images: "),
    ],
    ids=str,
)
def test_a_teacher_that_does_not_fit_is_one_sentence(
    num_classes: int, changes: dict[str, Any], sentence: str, tmp_path: Path
):
    path = save_lenet(tmp_path / "teacher.safetensors", num_classes)
    config = dataclasses.replace(CONFIG, **{"teacher": path} | changes)
    with pytest.raises(ConfigError, match=sentence) as error:
        make_teacher(config, open_dataset("digits", None, image_size=config.image_size))
    assert "\n" not in str(error.value)
