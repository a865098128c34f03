"""Many subnetworks and orders in one compiled function."""

from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxarch import depth
from flaxarch.depth import scores as module
from tests.depth.nets import (
    SHAPE,
    VECTORS,
    DenseResidual,
    random_batch,
    random_variables,
    tiny_preact,
    tiny_resnet,
)

NUM_BLOCKS = 6
MODEL = DenseResidual(NUM_BLOCKS)


@pytest.fixture(scope="module")
def variables() -> Any:
    return random_variables(MODEL, VECTORS)


@pytest.fixture(scope="module")
def batch() -> tuple[jax.Array, jax.Array]:
    return random_batch(7, VECTORS)


@pytest.fixture(scope="module")
def logits() -> Any:
    return jax.jit(lambda variables, images, gates: MODEL.apply(variables, images, train=False, gates=gates))


def scores(logits: jax.Array, labels: jax.Array) -> tuple[float, float]:
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    return float((logits.argmax(-1) == labels).mean()), float(
        -log_probs[np.arange(len(labels)), labels].mean()
    )


def test_each_row_of_gates_scores_as_its_own_network(variables: Any, batch: Any, logits: Any):
    gates = depth.keep_random(jax.random.key(0), NUM_BLOCKS, 4, 5)
    # batches of 4 do not divide 7 images: what fills the last one must not count
    found = depth.evaluate(MODEL, variables, *batch, gates=gates, batch_size=4)
    for i, row in enumerate(gates):
        accuracy, loss = scores(logits(variables, batch[0], row), batch[1])
        np.testing.assert_allclose(found.accuracy[i], accuracy, rtol=1e-6)
        np.testing.assert_allclose(found.loss[i], loss, rtol=1e-5)
    assert float(found.loss.std()) > 1e-3


def test_one_compiled_function_serves_all_lesions(variables: Any, batch: Any):
    compiled: Any = module._evaluate
    before = compiled._cache_size()
    for key in range(4):
        gates = depth.keep_random(jax.random.key(key), NUM_BLOCKS, key, 5)
        depth.evaluate(MODEL, variables, *batch, gates=gates, batch_size=4)
    assert compiled._cache_size() <= before + 1


def exchanged(variables: Any, names: list[str], order: np.ndarray) -> Any:
    """The variables with block order[i]'s at place i, by hand."""
    return {
        collection: {**trees, **{names[i]: trees[names[j]] for i, j in enumerate(order) if names[j] in trees}}
        for collection, trees in variables.items()
    }


def test_each_order_scores_as_the_network_with_exchanged_variables(variables: Any, batch: Any, logits: Any):
    blocks = depth.blocks(MODEL, VECTORS)
    orders = np.concatenate([[np.arange(6)], depth.swap_random(jax.random.key(1), blocks, 3, 4)])
    gates = np.asarray(depth.keep_random(jax.random.key(2), 6, 5, 5))
    found = depth.evaluate(MODEL, variables, *batch, orders=orders)
    both = depth.evaluate(MODEL, variables, *batch, orders=orders, gates=gates)
    names = [block.name for block in blocks]
    for i, order in enumerate(orders):
        trees = exchanged(variables, names, order)
        for given, row in ((found, np.ones(6, np.float32)), (both, gates[i])):
            accuracy, loss = scores(logits(trees, batch[0], row), batch[1])
            np.testing.assert_allclose(given.accuracy[i], accuracy, rtol=1e-6)
            np.testing.assert_allclose(given.loss[i], loss, rtol=1e-5)
    assert len(np.unique(np.round(found.loss, 5))) > 2


@pytest.mark.slow
def test_statistics_move_with_their_block():
    model = tiny_preact(stage_sizes=(1, 3))
    variables, batch = random_variables(model), random_batch(2)
    order = np.array([0, 1, 3, 2])
    found = depth.evaluate(model, variables, *batch, orders=order[None])
    names = [block.name for block in depth.blocks(model, SHAPE)]
    expected = depth.evaluate(model, exchanged(variables, names, order), *batch, orders=np.arange(4)[None])
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    kept = depth.evaluate(model, variables, *batch, orders=np.arange(4)[None])
    assert abs(float(found.loss[0] - kept.loss[0])) > 1e-3


def test_orders_that_are_none_are_refused_in_one_sentence():
    model, batch = tiny_resnet(14), random_batch(2)
    evaluate = partial(depth.evaluate, model, {}, *batch)
    for orders, sentence in (
        ([[1, 2, 3]], r"shape \(1, 3\) do not fit this network: give \(rows, 6\)"),
        ([[0, 0, 2, 3, 4, 5]], "row 0, is no permutation of the blocks"),
        ([range(6), [2, 1, 0, 3, 4, 5]], "row 1, puts layer2_0 in the place of layer1_0, unlike it"),
    ):
        with pytest.raises(ValueError, match=sentence):
            evaluate(orders=np.array([list(row) for row in orders]))
    with pytest.raises(ValueError, match="row by row"):
        evaluate(orders=np.arange(6)[None], gates=np.ones((2, 6)))
    with pytest.raises(ValueError, match=r"labels \(N,\), not"):
        depth.evaluate(model, {}, batch[0], batch[1][:1])


def test_swaps_exchange_blocks_that_are_alike_only():
    found = depth.blocks(tiny_resnet(32), SHAPE)
    orders = depth.swap_random(jax.random.key(0), found, 20, 50)
    assert (np.sort(orders, axis=1) == np.arange(15)).all()
    assert (orders // 5 == np.arange(15) // 5).all()  # within their stage
    assert (orders[:, [5, 10]] == [5, 10]).all()  # those that halve the map
    assert (depth.swap_random(jax.random.key(0), found, 0, 2) == np.arange(15)).all()
    one = depth.swap_random(jax.random.key(0), found, 1, 50)
    assert ((one != np.arange(15)).sum(axis=1) == 2).all()
    with pytest.raises(ValueError, match="no two blocks of this network are alike"):
        depth.swap_random(jax.random.key(0), depth.blocks(tiny_resnet(8), SHAPE), 1, 1)


def test_kendall_tau_is_the_share_of_pairs_in_order_less_that_of_pairs_out_of_order():
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(9) for _ in range(20)])
    for order, tau in zip(orders, depth.kendall_tau(orders), strict=True):
        signs = [np.sign(order[j] - order[i]) for i, j in combinations(range(9), 2)]
        np.testing.assert_allclose(tau, np.mean(signs))
    assert depth.kendall_tau(np.arange(9)) == 1
    assert depth.kendall_tau(np.arange(9)[::-1]) == -1
    assert jnp.shape(depth.kendall_tau(orders)) == (20,)
