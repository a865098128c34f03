"""Signals on their way through networks, against autodiff and against theory."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flaxarch.analysis import propagation
from flaxarch.depth import Chain
from flaxarch.depth.scores import cross_entropy
from flaxarch.residual import residual
from tests.depth.nets import SHAPE, random_batch, random_variables, tiny_densenet, tiny_preact, tiny_vgg

WIDTH, DEPTH = 128, 10
VECTORS = (1, 1, WIDTH)
he_normal = nn.initializers.he_normal()


class Layer(nn.Module):
    """Dense layer, batch norm if there is one, ReLU."""

    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Dense(x.shape[-1], use_bias=False, kernel_init=he_normal)(x)
        return nn.relu(y if self.norm is None else self.norm()(y))


class Residual(nn.Module):
    """Batch norm if there is one, ReLU, dense layer, beside an identity."""

    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(x if self.norm is None else self.norm()(x))
        return residual(x, nn.Dense(x.shape[-1], use_bias=False, kernel_init=he_normal)(y), None)


class Stack(nn.Module):
    """Blocks of one kind on vectors (N, 1, 1, WIDTH), and their first channels as logits."""

    block: Any
    has_norm: bool
    num_classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=not train) if self.has_norm else None
        x = images
        for i in range(DEPTH):
            x = self.block(norm, name=f"block{i}")(x)
        return x[:, 0, 0, : self.num_classes]


def at_start(block: Any, has_norm: bool, gain: float = 1.0) -> propagation.Propagation:
    """Means over eight initialisations; gradient norms are root mean squares."""
    model = Stack(block, has_norm)
    chain = Chain(model, VECTORS, train=True)
    images, labels = random_batch(64, VECTORS)
    found = []
    for seed in range(8):
        variables = random_variables(model, VECTORS, seed)
        params = jax.tree.map(lambda x: x * gain if x.ndim == 2 else np.full_like(x, 1), variables["params"])
        if has_norm:
            params = jax.tree.map_with_path(lambda path, x: x * 0 if path[-1].key == "bias" else x, params)
        found.append(propagation.signal_propagation(chain, {**variables, "params": params}, images, labels))
    squares = [x._replace(gradient_norm=x.gradient_norm**2) for x in found]
    mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *squares)
    return mean._replace(gradient_norm=np.sqrt(mean.gradient_norm))


@pytest.mark.parametrize("gain", [0.7, 1.0, 1.4])
def test_gradient_of_a_plain_network_grows_by_its_gain(gain: float):
    found = at_start(Layer, has_norm=False, gain=gain)
    slope = propagation.log_slope(found.gradient_norm[::-1] ** 2)
    np.testing.assert_allclose(slope, propagation.plain_slope(gain), atol=0.06)
    # forward it is the mean square that grows so; the first layer's input is centred, the others' are not
    squares = found.variance[1:] + found.mean[1:] ** 2
    np.testing.assert_allclose(propagation.log_slope(squares), propagation.plain_slope(gain), atol=0.06)


def test_gradient_of_a_plain_network_with_batch_norm_explodes():
    found = at_start(Layer, has_norm=True)
    slope = propagation.log_slope(found.gradient_norm[::-1] ** 2)
    assert math.isclose(propagation.PLAIN_BATCH_NORM_SLOPE, 0.383, abs_tol=1e-3)
    assert 0.30 < slope < 0.45


@pytest.mark.parametrize("has_norm", [False, True])
def test_variance_of_a_residual_network_grows_by_its_law(has_norm: bool):
    found, blocks = at_start(Residual, has_norm), np.arange(DEPTH + 1)
    expected = propagation.residual_variance(blocks, batch_norm=has_norm) * found.variance[0]
    np.testing.assert_allclose(found.variance, expected, rtol=0.25)
    shares = propagation.branch_share(blocks[1:], batch_norm=has_norm)
    np.testing.assert_allclose(found.branch_share, shares, rtol=0.15)


PLAIN = tiny_vgg((1, 1, 1), widths=(4, 4, 6))
NETWORKS = [
    pytest.param(Stack(Residual, True), VECTORS, True, id="dense, in training"),
    pytest.param(tiny_preact(stage_sizes=(1, 1)), SHAPE, True, id="in training", marks=pytest.mark.slow),
    pytest.param(PLAIN, SHAPE, False, id="plain", marks=pytest.mark.slow),
    pytest.param(tiny_preact(), SHAPE, False, id="pre-activation", marks=pytest.mark.slow),
    pytest.param(tiny_densenet(), SHAPE, False, id="concatenated", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("model", "shape", "train"), NETWORKS)
def test_product_of_jacobians_is_the_gradient_and_its_adjoint(model: Any, shape: Any, train: bool):
    variables, (images, labels) = random_variables(model, shape), random_batch(3, shape)
    chain = Chain(model, shape, train=train)

    @jax.jit
    def both(images: jax.Array, key: jax.Array) -> Any:
        x, stem = jax.vjp(partial(chain.run, variables, stop=0), images)
        gradients = propagation.block_gradients(chain, variables, images, labels)
        tangents = propagation.block_tangents(chain, variables, images, jax.random.normal(key, x.shape))
        products = jnp.stack([jnp.vdot(g, v) for g, v in zip(gradients, tangents, strict=True)])
        return stem(gradients[0])[0], products

    @jax.jit
    def autodiff(images: jax.Array) -> jax.Array:
        def loss(images: jax.Array) -> jax.Array:
            logits = model.apply(variables, images, train=train, mutable=["batch_stats"] if train else False)
            return cross_entropy(logits[0] if train else logits, labels).mean()

        return jax.grad(loss)(images)

    found, products = both(images, jax.random.key(0))
    expected = autodiff(images)
    assert float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)) < 1e-5
    # <dL/dx_i, v_i> is the change of the loss, at whatever depth it is seen
    np.testing.assert_allclose(products, products[0], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_moments_are_those_of_the_states_and_plain_networks_have_no_shares():
    variables, (images, labels) = random_variables(PLAIN), random_batch(3)
    chain = Chain(PLAIN, SHAPE)
    found = propagation.signal_propagation(chain, variables, images, labels)
    states = jax.jit(chain.states)(variables, images)
    np.testing.assert_allclose(found.mean, [x.mean() for x in states], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.variance, [x.var() for x in states], rtol=1e-4)
    assert found.gradient_norm.shape == (len(chain.blocks) + 1,)
    assert found.branch_share.shape == (0,)


def test_slope_of_a_geometric_series_is_the_logarithm_of_its_factor():
    np.testing.assert_allclose(propagation.log_slope(5 * 0.3 ** np.arange(9)), math.log(0.3))
    for values in (np.ones(1), np.array([1.0, 0.0]), np.ones((1, 2))):
        with pytest.raises(ValueError, match="a slope needs two values or more"):
            propagation.log_slope(values)
