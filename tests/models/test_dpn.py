"""Dual path networks: the two paths of a block, gates, stages and initialisation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.layers import Conventions
from flaxarch.models.dpn import DPN, DualPathBlock
from flaxarch.ops import use_native_forms
from tests.reference import random_variables

SMALL = DPN((2, 2), (4, 4), 8, 2, 8, stem_size=3, first_features=16, num_classes=5)


def shapes(name: str) -> Any:
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    with use_native_forms(True):
        return jax.eval_shape(flaxarch.functional(flaxarch.create(name)).init, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("name", "stem", "widths"),
    # Table 1: of a stage, the residual path's features and (blocks + 2) times "+k", the dense path's
    [
        ("dpn92", 64, [256 + 5 * 16, 512 + 6 * 32, 1024 + 22 * 24, 2048 + 5 * 128]),
        ("dpn98", 96, [256 + 5 * 16, 512 + 8 * 32, 1024 + 22 * 32, 2048 + 5 * 128]),
    ],
)
def test_stages_are_those_of_table_1(name: str, stem: int, widths: list[int]):
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    with use_native_forms(True):
        maps = jax.eval_shape(flaxarch.features(flaxarch.create(name)), *shapes(name), images)
    sizes = {2: (112, 112, stem)} | {
        4 * 2**i: (56 // 2**i, 56 // 2**i, width) for i, width in enumerate(widths)
    }
    assert {stride: x.shape[1:] for stride, x in maps.items()} == sizes


def test_3x3_of_dpn92_has_32_groups_of_3_to_24_features():
    params, _ = shapes("dpn92")
    kernels = [params[f"conv{i}_1"]["c3x3_b"]["conv"]["kernel"].shape for i in (2, 3, 4, 5)]
    assert kernels == [(3, 3, 3 * 2**i, 96 * 2**i) for i in range(4)]


def block(**fields: Any) -> DualPathBlock:
    conventions = Conventions(epsilon=1e-3)
    conv, norm = conventions.conv(jnp.float32), conventions.norm(False, jnp.float32, None)
    return DualPathBlock(8, 16, 4, 2, conv, norm, **fields)


def test_block_adds_to_the_residual_path_and_appends_to_the_dense_path():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 16 + 12))
    model = block()
    variables = jax.jit(model.init)(jax.random.key(1), x)
    apply = jax.jit(model.apply)
    out, double, shut = (apply(variables, x, jnp.full((1, 1, 1, 1), gate)) for gate in (1.0, 2.0, 0.0))
    assert out.shape == (2, 4, 4, 16 + 12 + 4)
    added = out[..., :16] - x[..., :16]
    np.testing.assert_allclose(double[..., :16] - x[..., :16], 2 * added, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(shut[..., :16], x[..., :16])
    for given in (out, double, shut):
        np.testing.assert_array_equal(given[..., 16:28], x[..., 16:])
        np.testing.assert_array_equal(given[..., 28:], out[..., 28:])
    assert bool(jnp.abs(added).max() > 0.1)
    assert bool(jnp.abs(out[..., 28:]).max() > 0.1)


def test_first_block_of_a_stage_starts_both_paths_afresh():
    x = jax.ShapeDtypeStruct((1, 8, 8, 28), jnp.float32)
    out, variables = jax.eval_shape(block(strides=2, project=True).init_with_output, jax.random.key(0), x)
    assert out.shape == (1, 4, 4, 16 + 3 * 4)
    assert variables["params"]["c1x1_w"]["conv"]["kernel"].shape == (1, 1, 28, 16 + 2 * 4)


def test_gates_of_one_change_nothing_and_others_do():
    variables = random_variables(SMALL)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    apply = jax.jit(partial(flaxarch.functional(SMALL).apply, *variables, images, train=False))
    plain, _ = apply()
    np.testing.assert_allclose(apply(gates=jnp.ones(4))[0], plain, rtol=1e-5, atol=1e-6)
    gates = np.ones((4, 2))
    gates[1, 0] = 0  # of the first image's second block
    lesioned, _ = apply(gates=jnp.asarray(gates, jnp.float32))
    np.testing.assert_allclose(lesioned[1], plain[1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(lesioned[0], plain[0], rtol=1e-2)


def test_gates_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"this network of 4 residual blocks: give \(4,\)"):
        jax.eval_shape(
            partial(SMALL.init, train=False, gates=jnp.ones(3)), jax.random.key(0), jnp.ones((1, 16, 16, 3))
        )


def test_layers_start_as_torchs():
    model = SMALL.clone(stage_sizes=(1,), growths=(64,), width=192, first_features=256, num_classes=400)
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)

    def start(key: jax.Array) -> tuple[jax.Array, Any]:
        params, _ = flaxarch.functional(model).init(key, images)
        return params["conv2_1"]["c3x3_b"]["conv"]["kernel"], params["classifier"]

    grouped, head = jax.jit(start)(jax.random.key(0))
    for kernel, fan_in in ((grouped, 9 * 96), (head["kernel"], 256 + 3 * 64)):
        np.testing.assert_allclose(kernel.std(), (3 * fan_in) ** -0.5, rtol=0.02)
        assert bool(jnp.abs(kernel).max() <= fan_in**-0.5)
    np.testing.assert_allclose(head["bias"].std(), (3 * (256 + 3 * 64)) ** -0.5, rtol=0.1)


def test_pixels_are_scaled_as_the_authors_did():
    row = flaxarch.published("dpn92")
    np.testing.assert_allclose([255 * x for x in row.mean], [124, 117, 104])
    np.testing.assert_allclose([1 / (255 * x) for x in row.std], 0.0167)
