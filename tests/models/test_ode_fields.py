"""Blocks of vector fields: what their papers prove of Jacobians and distances, for random parameters."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flaxarch.layers import TORCH
from flaxarch.models.ode_fields import (
    Antisymmetric,
    Bias,
    ConvexPotential,
    Field,
    Free,
    Hamiltonian,
    Pair,
    Parabolic,
    TvNorm,
    adjoint,
    conv3x3,
    squared_norm_bound,
)
from flaxarch.models.preact_unit import FULL_PREACT, Unit, basic, identity
from flaxarch.residual import replace_residual

SHAPE = (4, 3, 4)


def made(field: Any, norm: Any = Bias, **fields: Any) -> tuple[Any, Any, jax.Array]:
    """A block, random variables of no special values, and one image of its features."""
    block = field(SHAPE[-1], TORCH.conv(jnp.float32), norm, **fields)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, *SHAPE)), jnp.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        value = rng.normal(0, 0.4, leaf.shape)
        return (abs(value) + 0.2 if path[-1].key == "var" else value).astype(np.float32)

    return block, jax.tree.map_with_path(draw, shapes), x


def jacobian(field: Any, x: jax.Array) -> np.ndarray:
    found = jax.jit(jax.jacfwd(lambda v: field(v.reshape(x.shape)).reshape(-1)))(x.reshape(-1))
    return np.asarray(found, np.float64)


def slope(block: Any, variables: Any, x: jax.Array) -> jax.Array:
    """F(x), the branch."""
    with replace_residual(lambda x, y, gate: y):
        return block.apply(variables, x)


# Batch norm in evaluation, without a scale
evaluation_norm = partial(nn.BatchNorm, use_running_average=True, use_scale=False)
each_norm = pytest.mark.parametrize("norm", [Bias, evaluation_norm], ids=["bias", "batch norm"])


@each_norm
@pytest.mark.parametrize("act", [nn.relu, jnp.tanh])
def test_jacobian_of_parabolic_field_is_symmetric_and_has_no_positive_eigenvalue(norm: Any, act: Any):
    block, variables, x = made(Parabolic, norm, act=act)
    found = jacobian(partial(slope, block, variables), x)
    np.testing.assert_allclose(found, found.T, atol=1e-5)
    eigenvalues = np.linalg.eigvalsh(found)
    assert eigenvalues.max() < 1e-5
    assert eigenvalues.min() < -0.1


@each_norm
def test_eigenvalues_of_antisymmetric_field_are_left_of_the_imaginary_axis_as_far_as_it_is_damped(norm: Any):
    for damping in (0.0, 0.5):
        block, variables, x = made(Antisymmetric, norm, act=lambda x: x, damping=damping)
        eigenvalues = np.linalg.eigvals(jacobian(partial(slope, block, variables), x))
        assert abs(eigenvalues.imag).max() > 0.3
        if norm is Bias:
            np.testing.assert_allclose(eigenvalues.real, -damping, atol=2e-3)
        assert eigenvalues.real.max() < 2e-3
        block, variables, x = made(Antisymmetric, norm, act=nn.relu, damping=damping)
        assert np.linalg.eigvals(jacobian(partial(slope, block, variables), x)).real.max() < 2e-3


def test_adjoint_kernel_is_that_of_the_transposed_convolution():
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 6)), jnp.float32)
    x, y = (jnp.asarray(rng.normal(size=(1, 5, 4, n)), jnp.float32) for n in (4, 6))
    np.testing.assert_allclose(
        (conv3x3(x, kernel) * y).sum(), (x * conv3x3(y, adjoint(kernel))).sum(), rtol=1e-4
    )


def test_hamiltonian_step_is_symplectic_and_is_undone():
    block, variables, x = made(Hamiltonian, step=0.7, act=jnp.tanh)
    step = partial(block.apply, variables)
    found = jacobian(step, x)
    form = np.zeros_like(found).reshape(*SHAPE, *SHAPE)
    half = SHAPE[-1] // 2
    for i, j in np.ndindex(SHAPE[:2]):
        for k in range(half):
            form[i, j, k, i, j, k + half], form[i, j, k + half, i, j, k] = 1, -1
    form = form.reshape(found.shape)
    np.testing.assert_allclose(found.T @ form @ found, form, atol=2e-5)
    assert abs(found - np.eye(len(found))).max() > 0.05
    np.testing.assert_allclose(block.apply(variables, step(x), undo=True), x, atol=2e-6)


def test_pair_of_free_fields_is_undone_with_its_gate():
    block, variables, x = made(Pair, evaluation_norm)
    gate = jnp.full((1, 1, 1, 1), 0.3)
    y = block.apply(variables, x, gate)
    np.testing.assert_allclose(block.apply(variables, y, gate, undo=True), x, atol=1e-5)
    assert abs(y - x).max() > 0.05
    with pytest.raises(ValueError, match="5 features have no halves"):
        Pair(5, TORCH.conv(jnp.float32), Bias).init(jax.random.key(0), jnp.zeros((1, 3, 3, 5)))


def test_bound_of_the_norm_is_above_it_at_every_size_and_near_it():
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(1, 1, 3, 5)) + 0.2 * rng.normal(size=(3, 3, 3, 5))  # the norm is at frequency 0
    for kernel in (rng.normal(size=(3, 3, 3, 5)), smooth):
        kernel = jnp.asarray(kernel, jnp.float32)
        bound = float(squared_norm_bound(kernel))
        norms = []
        for size in (2, 4, 7):
            x = jnp.zeros((1, size, size, 3))
            norms.append(np.linalg.norm(jacobian(partial(conv3x3, kernel=kernel), x), 2) ** 2)
        assert norms[0] < norms[1] < norms[2] < bound
        assert bound < 2.2 * norms[2]


def test_convex_potential_block_expands_no_distance():
    rng = np.random.default_rng(2)
    for act in (nn.relu, jnp.tanh):
        block, variables, _ = made(ConvexPotential, act=act)
        x, y = (jnp.asarray(rng.normal(size=(400, *SHAPE)), jnp.float32) for _ in range(2))
        y = x + 10.0 ** jnp.asarray(rng.uniform(-2, 1, (400, 1, 1, 1)), jnp.float32) * y
        far = np.linalg.norm((block.apply(variables, x) - block.apply(variables, y)).reshape(400, -1), axis=1)
        ratio = far / np.linalg.norm((x - y).reshape(400, -1), axis=1)
        assert ratio.max() < 1 + 1e-5
        assert ratio.min() < 0.95


def test_tv_norm_gives_each_pixel_features_of_length_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 6)), jnp.float32)
    y = TvNorm().apply({"params": {"scale": jnp.ones(6), "bias": jnp.zeros(6)}}, x)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(y), axis=-1), 1, atol=1e-3)


def test_free_field_is_that_of_a_pre_activation_unit():
    block, variables, x = made(Free, partial(nn.BatchNorm, use_running_average=True))
    conv = TORCH.conv(jnp.float32)
    unit: Any = Unit(4, basic, FULL_PREACT, identity, conv, block.norm, dropout=nn.Dropout)
    np.testing.assert_allclose(unit.apply(variables, x), block.apply(variables, x), rtol=1e-6)


def test_field_without_a_slope_is_refused_when_it_is_made():
    with pytest.raises(TypeError, match="abstract"):
        Field(4, nn.Conv, nn.BatchNorm)  # pyright: ignore[reportAbstractUsage]
