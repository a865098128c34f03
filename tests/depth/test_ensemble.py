"""All subnetworks at once, and what their values say of the blocks."""

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import flaxarch
from flaxarch import depth
from tests.depth.nets import random_batch, random_variables, tiny_preact, tiny_resnet, tiny_vgg

_create: Any = flaxarch.create
NETWORKS = [
    pytest.param(tiny_resnet(8, survival_prob=0.5), id="stochastic depth"),
    pytest.param(tiny_vgg((1, 2)), id="without shortcuts"),
    pytest.param(tiny_resnet(20), id="post-activation", marks=pytest.mark.slow),
    pytest.param(tiny_preact(scan=True), id="in a loop", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("model", NETWORKS)
def test_all_subnetworks_at_once_score_as_one_by_one(model: Any):
    variables, batch = random_variables(model), random_batch(5)
    n = len(depth.deletable(model, batch[0].shape[1:]))
    found = depth.subnetworks(model, variables, *batch, batch_size=2)
    gates = depth.subsets(n)
    if getattr(model, "survival_prob", 1) != 1:  # a kept block counts by its chance
        gates = gates * (1 - np.arange(1, n + 1) / n * 0.5).astype(np.float32)
    expected = depth.evaluate(model, variables, *batch, gates=gates)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-4)
    np.testing.assert_allclose(found.accuracy, expected.accuracy, atol=1e-6)
    assert len(np.unique(np.round(np.asarray(found.loss), 4))) > 2 ** (n - 1)


def test_network_that_keeps_more_than_the_sum_is_sent_to_gates():
    model = _create("dpn68").clone(stage_sizes=(1, 1), growths=(4, 4), width=32, first_features=8)
    variables, batch = random_variables(model, (8, 8, 3)), random_batch(1)
    with pytest.raises(ValueError, match=r"more than the residual sum goes around .* DPN"):
        depth.subnetworks(model, variables, *batch)


def test_more_blocks_than_can_be_tried_are_refused():
    model = tiny_resnet(32)
    with pytest.raises(ValueError, match=r"15 blocks have 2\^15 subnetworks, and 12 are the most to try"):
        depth.subnetworks(model, {}, *random_batch(1))


def additive(weights: np.ndarray, base: float = 0.3) -> np.ndarray:
    return base + depth.subsets(len(weights)) @ weights


def test_shapley_values_of_an_additive_game_are_its_weights():
    weights = np.random.default_rng(0).normal(size=7)
    np.testing.assert_allclose(depth.shapley(additive(weights)), weights, atol=1e-12)


def test_shapley_values_share_out_what_the_whole_network_has_over_none():
    values = np.random.default_rng(1).normal(size=2**8)
    np.testing.assert_allclose(depth.shapley(values).sum(), values[-1] - values[0], atol=1e-12)


def test_shapley_values_are_the_mean_gain_over_all_orders():
    values = np.random.default_rng(2).normal(size=2**4)
    gains = np.zeros(4)
    for order in permutations(range(4)):
        subnetwork = 0
        for i in order:
            gains[i] += values[subnetwork | 1 << i] - values[subnetwork]
            subnetwork |= 1 << i
    np.testing.assert_allclose(depth.shapley(values), gains / math.factorial(4), atol=1e-12)


def test_blocks_of_equal_use_have_equal_shapley_values_and_useless_ones_none():
    gates = depth.subsets(5)
    values = np.maximum(gates[:, 0], gates[:, 3]) * gates[:, 1]  # 0 and 3 stand in for each other
    found = depth.shapley(values)
    np.testing.assert_allclose(found[0], found[3], atol=1e-12)
    np.testing.assert_allclose(found[[2, 4]], 0, atol=1e-12)
    assert found[1] > found[0] > 0


def test_interactions_give_the_values_back():
    values = np.random.default_rng(3).normal(size=2**6)
    signs = 2 * depth.subsets(6) - 1
    products = np.stack([np.prod(signs[:, depth.subsets(6)[s] == 1], axis=1) for s in range(2**6)], axis=1)
    np.testing.assert_allclose(products @ depth.interactions(values), values, atol=1e-12)


def test_a_product_of_signs_is_one_interaction():
    signs = 2 * depth.subsets(5) - 1
    found = depth.interactions(2 + 3 * signs[:, 1] * signs[:, 4])
    expected = np.zeros(2**5)
    expected[[0, 0b10010]] = 2, 3
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_variance_is_shared_out_among_orders():
    weights = np.random.default_rng(4).normal(size=6)
    np.testing.assert_allclose(depth.variance_by_order(additive(weights)), np.eye(7)[1], atol=1e-12)
    values = np.random.default_rng(5).normal(size=2**6)
    np.testing.assert_allclose(depth.variance_by_order(values).sum(), 1)
    np.testing.assert_allclose((depth.interactions(values)[1:] ** 2).sum(), values.var())


@pytest.mark.parametrize("values", [np.ones(3), np.ones((2, 2)), np.ones(0)])
def test_values_that_are_not_of_all_subnetworks_are_refused(values: np.ndarray):
    for function in (depth.shapley, depth.interactions, depth.variance_by_order):
        with pytest.raises(ValueError, match=r"values of all subnetworks are \(2\^n,\)"):
            function(values)
    with pytest.raises(ValueError, match="no variance to share"):
        depth.variance_by_order(np.ones(8))
