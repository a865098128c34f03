"""The gradient of a residual network as a sum over its paths."""

from functools import partial
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch import depth
from flaxarch.depth.scores import cross_entropy
from tests.depth.nets import (
    SHAPE,
    VECTORS,
    DenseResidual,
    ScaledSums,
    random_batch,
    random_variables,
    tiny_preact,
    tiny_resnet,
    tiny_vgg,
)


def gradient(model: Any, variables: Any, images: jax.Array, labels: jax.Array, *, train: bool = False) -> Any:
    """Autodiff's."""

    def loss(images: jax.Array) -> jax.Array:
        logits = model.apply(variables, images, train=train, mutable=["batch_stats"] if train else False)
        return cross_entropy(logits[0] if train else logits, labels).sum()

    return jax.jit(jax.grad(loss))(images)


def error(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


NETWORKS = [
    pytest.param(tiny_resnet(8, survival_prob=0.5), id="post-activation, stochastic depth"),
    pytest.param(tiny_resnet(20), id="post-activation", marks=pytest.mark.slow),
    pytest.param(tiny_preact(), id="pre-activation", marks=pytest.mark.slow),
    pytest.param(tiny_preact(scan=True), id="in a loop", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("model", NETWORKS)
def test_sum_over_all_lengths_is_the_gradient(model: Any):
    variables, batch = random_variables(model), random_batch(2)
    found = depth.path_gradients(model, variables, *batch)
    assert found.shape == (1 + len(depth.blocks(model, SHAPE)), *batch[0].shape)
    assert error(found.sum(axis=0), gradient(model, variables, *batch)) < 1e-5


def test_sum_over_all_lengths_is_the_gradient_to_the_last_digits_of_float64():
    with jax.enable_x64(True):
        model = DenseResidual(9)
        variables = random_variables(model, VECTORS, dtype=np.float64)
        images, labels = random_batch(2, VECTORS)
        images = images.astype(jnp.float64)
        found = depth.path_gradients(model, variables, images, labels)
        assert found.dtype == jnp.float64
        assert error(found.sum(axis=0), gradient(model, variables, images, labels)) < 1e-13


@pytest.mark.slow
def test_sum_over_all_lengths_is_the_gradient_in_training_too():
    model = tiny_resnet(8)
    variables, batch = random_variables(model), random_batch(4)
    found = depth.path_gradients(model, variables, *batch, train=True)
    assert error(found.sum(axis=0), gradient(model, variables, *batch, train=True)) < 1e-5


def along_every_path(model: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact gradients by length (10, ...), those along each of the 2^9 paths (512, ...), lengths (512,)."""
    variables, batch = random_variables(model, shape), random_batch(2, shape)
    paths = depth.subsets(9)
    along = depth.gradients_along(model, variables, *batch, paths, chunk_size=512)
    return np.asarray(depth.path_gradients(model, variables, *batch)), np.asarray(along), paths.sum(axis=1)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((DenseResidual(9), VECTORS), id="dense"),
        pytest.param((tiny_resnet(20), SHAPE), id="post-activation", marks=pytest.mark.slow),
    ],
)
def every_path(request: pytest.FixtureRequest) -> Any:
    return along_every_path(*request.param)


def test_paths_in_chunks_are_the_paths_at_once():
    model = DenseResidual(2)
    variables, batch = random_variables(model, VECTORS), random_batch(2, VECTORS)
    along = [depth.gradients_along(model, variables, *batch, depth.subsets(2), chunk_size=k) for k in (3, 4)]
    np.testing.assert_allclose(*along, rtol=1e-6)


def test_gradient_by_length_is_the_sum_along_all_512_paths(every_path: Any):
    exact, along, lengths = every_path
    for k in range(10):
        assert (lengths == k).sum() == comb(9, k)
        assert error(along[lengths == k].sum(axis=0), exact[k]) < 1e-5, k


def test_sampled_paths_agree_with_the_exact_sum(every_path: Any):
    exact, along, _ = every_path
    number = np.asarray(depth.keep_random(jax.random.key(0), 9, 4, 1000)) @ 2 ** np.arange(9)
    samples = comb(9, 4) * along[number.astype(int)]
    deviation = samples.std(axis=0) / np.sqrt(1000)
    off = np.abs(samples.mean(axis=0) - exact[4]) / (deviation + 1e-12)
    assert (off < 5).mean() > 0.999
    assert off.mean() < 1


def test_paths_of_equal_length_interfere(every_path: Any):
    exact, along, lengths = every_path
    for k in range(10):
        norms = np.linalg.norm(along[lengths == k].reshape(comb(9, k), -1), axis=1)
        ratio = np.linalg.norm(exact[k]) / norms.sum()
        assert ratio < 1 + 1e-5
        assert ratio > 1 - 1e-5 if k in (0, 9) else ratio < 0.999


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        pytest.param(DenseResidual(3), VECTORS, id="dense"),
        pytest.param(tiny_preact(stage_sizes=(1, 2)), SHAPE, id="pre-activation", marks=pytest.mark.slow),
    ],
)
def test_gradient_by_length_follows_the_recurrence_over_blocks(model: Any, shape: Any):
    # g_i[k] = h_i^T g_{i+1}[k] + J_i^T g_{i+1}[k-1], with both Jacobians from the cut network
    variables, (images, labels) = random_variables(model, shape), random_batch(1, shape)
    chain = depth.Chain(model, shape)
    n = len(chain.blocks)

    @jax.jit
    def recurrence(images: jax.Array) -> jax.Array:
        states = chain.states(variables, images)
        head = partial(chain.run, variables, start=n)
        found = [jax.grad(lambda x: cross_entropy(head(x), labels).sum())(states[n])]
        for i in reversed(range(n)):
            _, shortcut = jax.vjp(partial(chain.shortcut, variables, i=i), states[i])
            _, branch = jax.vjp(partial(chain.branch, variables, i=i), states[i])
            kept, longer = [shortcut(g)[0] for g in found], [branch(g)[0] for g in found]
            found = [kept[0], *(a + b for a, b in zip(kept[1:], longer, strict=False)), longer[-1]]
        _, stem = jax.vjp(partial(chain.run, variables, stop=0), images)
        return jnp.stack([stem(g)[0] for g in found])

    exact = depth.path_gradients(model, variables, images, labels)
    for found, expected in zip(recurrence(images), exact, strict=True):
        assert error(found, expected) < 1e-5


@pytest.mark.parametrize("max_length", [None, 2])
def test_lengths_of_scaled_sums_are_binomial(max_length: int | None):
    # x + a x, n times: C(n, k) paths that carry a^k each, so that rho is a
    n, a = 8, 0.3
    model = ScaledSums(n, a)
    images, labels = random_batch(1, (4, 4, 3))[0], jnp.array([1])
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)
    found = depth.path_gradients(model, variables, images, labels, max_length=max_length)
    norms = np.linalg.norm(np.asarray(found).reshape(len(found), -1), axis=1)
    expected = np.array([comb(n, k) * a**k for k in range(len(found))])
    np.testing.assert_allclose(norms / norms[0], expected, rtol=1e-5)
    if max_length is None:
        rho, r_squared = depth.fit_decay(range(n + 1), norms / [comb(n, k) for k in range(n + 1)])
        np.testing.assert_allclose([rho, r_squared], [a, 1], rtol=1e-5)
        np.testing.assert_allclose(depth.decayed_lengths(n, a), norms / norms.sum(), rtol=1e-5)


def test_requests_that_have_no_answer_are_one_sentence():
    model = tiny_resnet(8)
    variables, batch = random_variables(model), random_batch(1)
    with pytest.raises(ValueError, match="paths through 3 blocks have lengths 0 to 3, not 4"):
        depth.path_gradients(model, variables, *batch, max_length=4)
    with pytest.raises(ValueError, match=r"shape \(3,\) do not fit 3 blocks: give \(num_paths, 3\)"):
        depth.gradients_along(model, variables, *batch, np.ones(3))
    with pytest.raises(ValueError, match="VGG has no residual block, so that it has one path"):
        depth.path_gradients(tiny_vgg(), {}, *random_batch(1, (32, 32, 3)))
    with pytest.raises(ValueError, match="a decay needs norms, all above zero"):
        depth.fit_decay([0, 1], np.array([1.0, 0.0]))


# The laws, and the paper's numbers for 54 blocks


def test_effective_length_is_the_mean_of_the_binomial_law():
    for n, rho in ((54, 0.25), (9, 0.8), (27, 1.0)):
        shares = depth.decayed_lengths(n, rho)
        np.testing.assert_allclose(shares.sum(), 1)
        np.testing.assert_allclose(shares @ np.arange(n + 1), depth.effective_length(n, rho))
        q = rho / (1 + rho)
        binomial = [comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)]
        np.testing.assert_allclose(shares, binomial, rtol=1e-9)
    np.testing.assert_allclose(depth.decayed_lengths(54, 1), depth.path_lengths(54))


def test_paths_of_resnet_110_are_as_the_paper_counts_them():
    lengths = depth.path_lengths(54)
    np.testing.assert_allclose(lengths @ np.arange(55), 27)
    assert lengths[19:36].sum() > 0.95  # "more than 95% of paths go through 19 to 35 modules"
    np.testing.assert_allclose(lengths[5:18].sum(), 0.0045, atol=5e-5)  # "only 0.45 %" are effective
    # 23 kept blocks, whose paths are 11.5 long, stand for a decay of 0.27 per block
    assert round(depth.num_effective_blocks(54, 0.27)) == 23
    # with 0.25 the central 95 % of the gradient are the paper's 5 to 17 blocks
    tail = np.cumsum(depth.decayed_lengths(54, 0.25))
    assert tail[4] < 0.025 < tail[5]
    assert tail[16] < 0.975 < tail[17]


def test_training_on_effective_paths_moves_the_kept_blocks_only():
    model = DenseResidual(3)
    variables, (images, labels) = random_variables(model, VECTORS), random_batch(4, VECTORS)
    _, apply = flaxarch.functional(model)
    (gates,) = depth.keep_random(jax.random.key(2), 3, 2, 1)

    def loss(params: Any) -> jax.Array:
        logits, _ = apply(params, variables["batch_stats"], images, train=True, gates=gates)
        return cross_entropy(logits, labels).mean()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for block, gate in zip(depth.blocks(model, VECTORS), gates, strict=True):
        moved = any(bool(jnp.any(x)) for x in jax.tree.leaves(gradients[block.name]))
        assert moved == bool(gate), block.name
