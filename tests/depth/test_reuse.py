"""What the layers of DenseNets have of the features before them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flaxarch
from flaxarch import depth
from flaxarch.models.densenet import DenseNet
from tests.depth.nets import random_batch, random_variables, tiny_densenet

_create: Any = flaxarch.create
GROWTH = 4  # of both; the stems have 16 and 8 features
MODELS = {
    "basic": tiny_densenet(),
    "bottlenecks": _create("densenet_bc_40_12").clone(block_sizes=(2, 1), growth_rate=GROWTH),
}
READERS = ("block1_layer1", "block1_layer2", "transition1", "block2_layer1", "classifier")
apply_connected = jax.jit(depth.apply_connected, static_argnums=0)
both = pytest.mark.parametrize("model", [pytest.param(model, id=name) for name, model in MODELS.items()])


def sizes_read(variables: Any, reader: str) -> list[int]:
    """Features of each source that a reader has: the dense block's input, then the layers before it."""
    num_layers = {"block1_layer2": 1, "transition1": 2, "classifier": 1}.get(reader, 0)
    total = kernel_of(variables["params"], reader).shape[-2]
    return [total - num_layers * GROWTH, *[GROWTH] * num_layers]


def kernel_of(params: Any, reader: str) -> Any:
    name = {"transition1": "conv", "classifier": None}.get(reader, "conv1")
    return params[reader]["kernel"] if name is None else params[reader][name]["kernel"]


def channel_gates(variables: Any, gates: Any) -> dict[str, jax.Array]:
    """Gates of connections as factors of each reader's channels, (1, ..., C)."""
    found, start = {}, 0
    for reader in READERS:
        sizes = sizes_read(variables, reader)
        found[reader] = jnp.concatenate([jnp.full(size, gates[start + i]) for i, size in enumerate(sizes)])
        start += len(sizes)
    assert start == len(gates)
    return found


def by_hand(model: DenseNet, variables: Any, images: jax.Array, gates: jax.Array) -> jax.Array:
    """Logits where the features are gated behind each reader's norm: a ReLU passes what is not negative."""
    factors = channel_gates(variables, gates)

    def call(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = method(*args, **kwargs)
        reader, *name = context.module.path or ("",)
        reader = {"norm5": "classifier"}.get(reader, reader)
        is_first = isinstance(context.module, nn.BatchNorm) and name != ["norm2"]
        return y * factors[reader].reshape(1, 1, 1, -1) if is_first and reader in factors else y

    with nn.intercept_methods(call):
        return model.apply(variables, images, train=False)  # pyright: ignore[reportReturnType]


@both
def test_gate_of_a_connection_multiplies_what_its_reader_has_behind_norm_and_relu(model: DenseNet):
    variables, (images, _) = random_variables(model), random_batch(3)
    plain = jax.jit(partial(by_hand, model))
    gates = np.random.default_rng(0).uniform(size=9).astype(np.float32)
    for row in (gates, np.ones(9, np.float32)):
        expected = plain(variables, images, row)
        np.testing.assert_allclose(
            apply_connected(model, variables, images, row), expected, rtol=1e-4, atol=1e-5
        )


def test_each_row_of_cuts_scores_as_the_network_with_them_cut():
    model = MODELS["basic"]
    variables, (images, labels) = random_variables(model), random_batch(3)
    rows = np.concatenate([depth.delete_each(9), depth.delete_sources(model)[1]])
    # batches of 2 do not divide 3 images: what fills the last one must not count
    scores = depth.evaluate_connections(model, variables, images, labels, rows, batch_size=2)
    for i, row in enumerate(rows):
        log_probs = np.asarray(jax.nn.log_softmax(apply_connected(model, variables, images, row)))
        np.testing.assert_allclose(scores.loss[i], -log_probs[np.arange(3), labels].mean(), rtol=1e-4)
        right = (log_probs.argmax(axis=-1) == labels).mean()
        np.testing.assert_allclose(scores.accuracy[i], right, rtol=1e-6)
    assert len(np.unique(np.round(scores.loss, 5))) > 9  # every cut shows


def test_source_that_is_cut_from_all_its_readers_counts_for_nothing():
    model = MODELS["basic"]
    variables, (images, _) = random_variables(model), random_batch(3)
    sources, rows = depth.delete_sources(model)
    assert sources == ((1, 0), (1, 1), (1, 2), (2, 0), (2, 1))
    other = jax.tree.map(lambda x: x, variables)
    other["params"]["block1_layer2"] = jax.tree.map(lambda x: -2 * x, variables["params"]["block1_layer2"])
    pairs = [[apply_connected(model, v, images, row) for v in (variables, other)] for row in rows]
    differences = [float(np.abs(np.subtract(*pair)).max()) for pair in pairs]
    # without the input of the second dense block, what the first one does is as lost
    assert [difference < 1e-6 for difference in differences] == [False, False, True, True, False]


@both
@pytest.mark.parametrize("fold_scale", [False, True])
def test_weights_are_means_over_the_kernels_one_weight_after_the_other(model: DenseNet, fold_scale: bool):
    params = random_variables(model)["params"]
    found = depth.connection_weights(model, params, fold_scale=fold_scale)
    expected = []
    norms = {"transition1": ("transition1", "norm"), "classifier": ("norm5",)}
    for reader in READERS:
        kernel, first = np.asarray(kernel_of(params, reader)), 0
        norm = params
        for name in norms.get(reader, (reader, "norm1")):
            norm = norm[name]
        for size in sizes_read({"params": params}, reader):
            total, count = 0.0, 0
            for channel in range(first, first + size):
                for weight in kernel[..., channel, :].ravel():
                    total += abs(float(weight)) * (abs(float(norm["scale"][channel])) if fold_scale else 1)
                    count += 1
            expected.append(total / count)
            first += size
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_matrices_have_sources_in_rows_and_readers_in_columns():
    model = MODELS["basic"]
    found = depth.connections(model)
    assert [x[1:] for x in found if x.block == 1] == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    first, second = depth.as_matrices(model, np.arange(9.0))
    nan = np.nan
    np.testing.assert_array_equal(first, [[0, 1, 3], [nan, 2, 4], [nan, nan, 5]])
    np.testing.assert_array_equal(second, [[6, 7], [nan, 8]])


def test_released_network_has_its_connections():
    model = _create("densenet121")
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    num_connections = sum((n + 1) * (n + 2) // 2 for n in (6, 12, 24, 16))
    assert len(depth.connections(model)) == num_connections == 597
    gates = jnp.ones(num_connections)
    logits = jax.eval_shape(partial(depth.apply_connected, model), variables, images, gates)
    assert logits.shape == (1, 1000)
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), variables["params"])
    np.testing.assert_array_equal(depth.connection_weights(model, ones), 1)
    sources, rows = depth.delete_sources(model)
    assert rows.shape == (7 + 13 + 25 + 17, num_connections)
    assert (1 - rows).sum(axis=1)[sources.index((4, 0))] == 17


def test_gates_and_values_of_another_shape_are_refused_in_one_sentence():
    model, variables, (images, labels) = MODELS["basic"], random_variables(MODELS["basic"]), random_batch(1)
    with pytest.raises(ValueError, match=r"do not fit this DenseNet of 9 connections: give \(9,\)"):
        depth.apply_connected(model, variables, images, np.ones(8))
    with pytest.raises(ValueError, match=r"rows of gates are \(num_rows, 9\), not \(9,\)"):
        depth.evaluate_connections(model, variables, images, labels, np.ones(9))
    with pytest.raises(ValueError, match=r"values of shape \(3,\) are not one for each of 9 connections"):
        depth.as_matrices(model, np.ones(3))
