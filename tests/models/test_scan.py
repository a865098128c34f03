"""Blocks in a loop over stacked variables: the network of blocks written out, in a program of one size."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxarch
from flaxarch.depth.multilevel import refine
from flaxarch.depth.orders import reorder
from flaxarch.loops import in_form_of, stack_blocks, unstack_blocks
from flaxarch.models.cifar_resnet import CifarResNet
from flaxarch.models.preact_resnet import CifarPreAct, CifarPreActBottleneck
from flaxarch.models.preact_unit import projection
from tests.depth.nets import random_variables
from train.optim import is_kernel
from train.parallel import MeshPartitioner, PmapPartitioner
from train.step import TrainState, init_state, make_train_step

SHAPE = (8, 8, 3)
OPTIMIZER = optax.chain(optax.add_decayed_weights(0.1, mask=is_kernel), optax.sgd(0.1, momentum=0.9))
STEP: Any = partial(make_train_step, tx=OPTIMIZER, seed=0, mean=(0.5,) * 3, std=(0.25,) * 3)
_create: Any = flaxarch.create

NETWORKS: dict[str, Any] = {
    "pre-activation": CifarPreAct((3,), widths=(4,), shortcut=projection),
    "post-activation": CifarResNet((3,), widths=(4,)),
}
MORE: dict[str, Any] = {
    "pre-activation, three stages": CifarPreActBottleneck((1, 4, 2), widths=(8, 16, 16)),
    "post-activation, three stages": CifarResNet((2, 3, 1), widths=(4, 8, 8)),
    "stride last": _create("resnet50v2_keras").clone(stage_sizes=(3, 4), widths=(8, 16), num_classes=10),
    "reversible": CifarPreAct((3, 3), widths=(4, 8), shortcut=projection, momentum=0.9),
    "plain": _create("plain20").clone(widths=(4, 8, 8)),
    "squeeze-and-excitation": _create("seresnet20").clone(widths=(16, 16, 16)),
    "aggregated": _create("resnext29_8x64d").clone(stage_sizes=(3, 3, 1), widths=(8, 8, 8)),
    "dilated": _create("resnet50").clone(widths=(8, 8, 8, 8), output_stride=8, num_classes=10),
}


def each_network(*quick: str) -> Any:
    """All but the quick ones are for the slow suite."""
    rows = NETWORKS | MORE
    marks = {name: () if name in quick else pytest.mark.slow for name in rows}
    return pytest.mark.parametrize(
        "model", [pytest.param(rows[name], id=name, marks=marks[name]) for name in rows]
    )


def shape_of(model: Any) -> tuple[int, int, int]:
    return (8, 8, 3) if len(model.stage_sizes) < 4 and model.stem.stride == 1 else (32, 32, 3)


def looped(model: Any) -> Any:
    return model.clone(scan=True)


def state_of(model: Any, dtype: Any = np.float32) -> TrainState:
    params, batch_stats = random_variables(model, shape_of(model), dtype=dtype).values()
    return TrainState(jnp.int32(0), params, batch_stats, OPTIMIZER.init(params))


def batch_for(model: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, *shape_of(model)), dtype=np.uint8)
    return {"image": image, "label": rng.integers(0, 10, 8), "mask": np.ones(8, np.float32)}


@cache
def logits_function(model: Any) -> Any:
    return jax.jit(partial(model.apply, train=False))


@pytest.mark.parametrize(
    "model",
    [
        CifarPreActBottleneck((1, 3), widths=(8, 16)),
        _create("resnet50v2_keras").clone(stage_sizes=(1, 4), widths=(8, 16)),
        CifarResNet((2, 3), widths=(4, 8)),
    ],
    ids=["pre-activation", "stride last", "post-activation"],
)
def test_stacking_is_undone_exactly_for_a_whole_training_state(model: Any):
    state = jax.eval_shape(lambda: init_state(model, optax.adam(0.1), 0, (64, 64, 3), average=True))
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: rng.standard_normal(x.shape), state)  # float64, which JAX would round
    stacked = stack_blocks(model, state)
    chex.assert_trees_all_equal(unstack_blocks(stacked), state, strict=True)
    chex.assert_trees_all_equal(in_form_of(looped(model), stacked), stacked, strict=True)
    squares, (stack,) = state.opt_state[0].nu, (x for x in stacked.params if x.startswith("layer2_1"))
    second = jax.tree.map(lambda x: x[1], stacked.opt_state[0].nu[stack])
    chex.assert_trees_all_equal(second, squares["layer2_2"], strict=True)
    assert "layer2_2" not in stacked.opt_state[0].nu


@each_network("pre-activation")
def test_steps_in_a_loop_are_the_steps_of_blocks_written_out(model: Any):
    def trained(model: Any) -> Any:
        step, found = jax.jit(STEP(model.clone(dtype=jnp.float64))), []
        current = in_form_of(model, state)
        for _ in range(3):  # weights decay, gradients become momentum, statistics move
            current, metrics = step(current, batch)
            found.append(metrics)
        return unstack_blocks(current), found

    with jax.enable_x64(True):  # float32's rounding moves a ReLU's zero now and then
        state, batch = state_of(model, np.float64), batch_for(model)
        found, expected = trained(looped(model)), trained(model)
        chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-6)
    assert expected[1][2]["loss"] != expected[1][0]["loss"]


@each_network(*NETWORKS)
def test_zero_deletes_the_same_block_in_both_forms(model: Any):
    variables, images = random_variables(model, shape_of(model)), jnp.ones((2, *shape_of(model)))
    stacked, n = stack_blocks(model, variables), sum(model.stage_sizes)
    given = [{}] if model.shortcut is None else [{"gates": x} for x in 1 - jnp.eye(n)[1:]]
    logits = []
    for gates in given:
        logits.append(logits_function(model)(variables, images, **gates))
        found = logits_function(looped(model))(stacked, images, **gates)
        np.testing.assert_allclose(found, logits[-1], rtol=1e-4, atol=1e-4 * np.abs(logits[-1]).max())
    assert all(np.abs(x - logits[0]).max() > 1e-3 for x in logits[1:])


def test_step_of_a_deeper_network_is_a_program_of_the_same_size():
    def size(model: Any) -> int:
        state = jax.eval_shape(lambda: init_state(model, OPTIMIZER, 0, SHAPE))
        return len(jax.jit(STEP(model)).lower(state, batch_for(model)).as_text())

    model = looped(CifarPreActBottleneck((3, 5), widths=(8, 16)))
    assert size(model) == size(model.clone(stage_sizes=(6, 10)))


def test_start_in_a_loop_has_the_shapes_of_stacked_variables_and_other_numbers_for_each_block():
    model = CifarPreActBottleneck((4,), widths=(16,))
    init = flaxarch.functional(looped(model)).init
    images = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    params, batch_stats = jax.jit(partial(init, images=images))(jax.random.key(0))
    expected = jax.eval_shape(flaxarch.functional(model).init, jax.random.key(0), images)
    chex.assert_trees_all_equal_shapes_and_dtypes(unstack_blocks((params, batch_stats)), expected)
    kernels, norm = (params["layer1_1_to_3"][name] for name in ("conv2", "norm2"))
    kernels = np.asarray(kernels["kernel"])
    np.testing.assert_allclose(kernels.std(), np.sqrt(2 / (9 * 4)), rtol=0.15)
    assert np.abs(np.corrcoef(kernels.reshape(3, -1))[np.triu_indices(3, 1)]).max() < 0.5
    assert (norm["scale"] == 1).all()


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)
def test_variables_of_the_other_form_are_refused_in_a_sentence(model: Any):
    ordinary, images = random_variables(model), jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    stacked, kind = stack_blocks(model, ordinary), type(model).__name__

    def apply(model: Any, variables: Any) -> None:
        jax.eval_shape(partial(model.apply, train=False), variables, images)

    with pytest.raises(ValueError, match=f"this {kind} has scan=False and is given stacked variables"):
        apply(model, stacked)
    sentence = rf"this {kind} has scan=True and is given variables without layer1_1_to_2: .*stack_blocks"
    with pytest.raises(ValueError, match=sentence):
        apply(looped(model), ordinary)
    deeper = model.clone(stage_sizes=tuple(2 * n for n in model.stage_sizes))
    with pytest.raises(ValueError, match="has scan=True and is given variables without layer1_1_to_5"):
        apply(looped(deeper), stacked)


def test_what_cannot_be_stacked_is_named():
    model = NETWORKS["post-activation"]
    params = random_variables(model)["params"]
    with pytest.raises(ValueError, match="VGG has no loops over blocks"):
        stack_blocks(flaxarch.create("vgg11"), params)
    less = {name: tree for name, tree in params.items() if name != "layer1_2"}
    with pytest.raises(ValueError, match="layer1_1 cannot be stacked with others: there is no layer1_2"):
        stack_blocks(model, less)
    with pytest.raises(ValueError, match="layer1_1 to layer1_2 cannot be stacked: they differ"):
        stack_blocks(model, params | {"layer1_1": {}})
    wider = jax.tree.map(lambda x: np.repeat(x, 2, axis=-1), params["layer1_2"])
    with pytest.raises(ValueError, match="layer1_1 to layer1_2 cannot be stacked: they differ"):
        stack_blocks(model, params | {"layer1_2": wider})


def test_functions_of_depth_take_a_network_in_a_loop_with_its_stacked_variables():
    model = NETWORKS["post-activation"].clone(stage_sizes=(2, 4), widths=(4, 4))
    variables = random_variables(model)
    stacked = stack_blocks(model, variables)
    # What is alike changes places, and twice as many blocks of half the step stand for it.
    order = jnp.array([1, 0, 2, 4, 5, 3])
    found = reorder(looped(model), stacked, SHAPE, order)
    expected = reorder(model, variables, SHAPE, order)
    chex.assert_trees_all_equal(unstack_blocks(found), expected)
    deeper, found = refine(looped(model), stacked, SHAPE)
    plain, expected = refine(model, variables, SHAPE)
    assert deeper == looped(plain)
    chex.assert_trees_all_equal(unstack_blocks(found), expected)
    assert set(found["params"]) >= {f"layer{i}_1_to_{n - 1}" for i, n in enumerate(plain.stage_sizes, 1)}


def test_file_of_a_network_in_a_loop_holds_the_ordinary_form(tmp_path: Path):
    model = NETWORKS["post-activation"]
    variables = random_variables(model)
    stacked = stack_blocks(model, variables)
    flaxarch.save(tmp_path / "a.safetensors", looped(model), stacked)
    loaded, found = flaxarch.load(tmp_path / "a.safetensors")
    assert loaded == model
    chex.assert_trees_all_equal(found, variables)
    tensors = (flaxarch.to_torch(looped(model), stacked), flaxarch.to_torch(model, variables))
    chex.assert_trees_all_equal(*tensors)


@pytest.mark.slow
@pytest.mark.parametrize(
    "partitioner",
    [PmapPartitioner, MeshPartitioner, partial(MeshPartitioner, shard_params=True)],
    ids=["pmap", "mesh", "sharded"],
)
def test_step_on_two_devices_takes_a_stacked_state(partitioner: Any):
    model = NETWORKS["pre-activation"]
    state, batch = stack_blocks(model, state_of(model)), batch_for(model)
    expected, of_one = jax.jit(STEP(looped(model)))(state, batch)
    parallel = partitioner(jax.devices()[:2])
    step = parallel.compile_train(STEP(looped(model)))
    found, of_two = step(parallel.place(state), parallel.shard_batch(batch))
    chex.assert_trees_all_close(jax.device_get(found), jax.device_get(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_two["grad_norm"], of_one["grad_norm"], rtol=1e-4)
