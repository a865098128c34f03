"""What GPUs and TPUs are given, seen without one: the program that is lowered for them."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import export

import flaxarch
from flaxarch.ops import use_native_forms
from train.metrics import count_flops
from train.step import init_state, make_train_step

PLATFORMS = ("cuda", "tpu")
NAMES = ("resnet20",)
SLOW = (
    "mobilenet_v2",
    "densenet_bc_100_12",
    "resnet50",
    "resnext50_32x4d",
    "inception_v3",
    "vgg16_bn",
    "xception",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
)
# GoogLeNet is not here: its auxiliary heads pool by matrix products, whose 4x4 results are transposed.
BATCH = 24  # a number that is no layer's size, so that it marks what has images in it
TX = optax.sgd(0.1, momentum=0.9)
TENSOR = re.compile(r"tensor<((?:\d+x)+)(\w+)>")


def training(name: str) -> tuple[Any, Any, Any]:
    """The trainer's bfloat16 step of a network, and the shapes that it takes."""
    row = flaxarch.published(name)
    model = flaxarch.create(name, dtype=jnp.bfloat16)
    step = make_train_step(model, TX, seed=0, mean=row.mean, std=row.std)
    state = jax.eval_shape(partial(init_state, model, TX, 0, row.input_shape))
    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, *row.input_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((BATCH,), jnp.float32),
    }
    return step, state, batch


def lowered(step: Any, state: Any, batch: Any) -> list[str]:
    """The lines of the program for both platforms."""
    with use_native_forms(True):
        program = export.export(jax.jit(step, donate_argnums=0), platforms=PLATFORMS)(state, batch)
    return program.mlir_module().splitlines()


def shapes(line: str) -> list[tuple[list[int], str]]:
    return [([int(n) for n in dims.split("x")[:-1]], dtype) for dims, dtype in TENSOR.findall(line)]


@pytest.fixture(
    scope="module", params=[*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def program(request: pytest.FixtureRequest) -> list[str]:
    return lowered(*training(request.param))


def test_no_map_of_features_is_transposed(program: list[str]):
    moved = [line for line in program if "stablehlo.transpose" in line]
    maps = [line for line in moved if any(len(dims) == 4 and BATCH in dims for dims, _ in shapes(line))]
    assert not maps, maps[:3]


def test_convolutions_are_bfloat16_and_take_float32_nowhere(program: list[str]):
    convolutions = [line for line in program if "stablehlo.convolution" in line]
    assert convolutions
    for line in convolutions:
        assert {dtype for _, dtype in shapes(line)} == {"bf16"}, line


def test_means_over_the_batch_are_float32(program: list[str]):
    sums = [line for line in program if "stablehlo.reduce(" in line and "applies stablehlo.add" in line]
    of_maps = [line for line in sums if "dimensions = [0, 1, 2]" in line]
    assert of_maps
    for line in of_maps:
        assert {dtype for _, dtype in shapes(line)} == {"f32"}, line


def test_nothing_calls_the_host_and_the_state_is_donated(program: list[str]):
    calls = {call for line in program for call in re.findall(r"custom_call @(\w+)", line)}
    assert not {call for call in calls if "callback" in call or "host" in call.lower()}, calls
    head = next(line for line in program if "func.func public @main" in line)
    results = len(re.findall(r"jax.result_info", head.partition("->")[2]))
    donated = head.count("tf.aliasing_output") + head.count("jax.buffer_donor")
    assert donated >= results - 6  # all but the metrics


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "vgg16_bn", "densenet121")),
    ],
)
def test_operations_by_xla_are_those_of_the_analysis(name: str):
    shape, model = (896, 896, 3), flaxarch.create(name)  # large, as XLA leaves out what meets the padding
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(partial(model.init, jax.random.key(0), train=False), images)
    found = count_flops(partial(model.apply, train=False), variables, images)
    assert found == pytest.approx(2 * flaxarch.cost(model, shape).macs, rel=0.05)
