"""Eigenvalues, norms and growth without a matrix, against matrices and against what is known by theory."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flaxarch.depth import flows
from flaxarch.depth.jacobians import Spectra, spectra, step_of
from flaxarch.depth.regions import LEAPFROG, is_stable
from flaxarch.depth.stability import Certificate, certify
from flaxarch.depth.stability_plot import plot_certificate
from flaxarch.models.cifar_resnet import CifarResNet
from flaxarch.residual import residual
from tests.depth.nets import SHAPE, random_batch, random_variables, tiny_resnet

DIMS, BLOCKS, IMAGES = 6, 4, 2
STATES = np.random.default_rng(1).normal(size=(IMAGES, DIMS))


def layer(x: jax.Array, theta: Any) -> jax.Array:
    """0.8 tanh(W x + b), or W x: one function, so that it is compiled once."""
    y = x @ theta["w"].T + theta["b"][None]
    return jnp.where(theta["is_linear"], y, 0.8 * jnp.tanh(y))


def linear(matrices: np.ndarray) -> dict[str, np.ndarray]:
    return {"w": matrices, "b": np.zeros(matrices.shape[:2]), "is_linear": np.full(len(matrices), True)}


def measured(theta: Any) -> Any:
    """Spectra of layers in float64, with whole Krylov spaces and all exponents; and where they end."""
    with jax.enable_x64(True):
        theta = jax.tree.map(jnp.asarray, theta)
        key, settings = jax.random.key(0), {"num_krylov": 64, "num_exponents": 64, "num_sweeps": 150}
        return spectra(layer, jnp.asarray(STATES), theta, key, **settings)


def test_numbers_of_each_block_are_those_of_its_dense_jacobian():
    rng = np.random.default_rng(0)
    theta = linear(rng.normal(size=(BLOCKS, DIMS, DIMS)))
    theta |= {"b": rng.normal(size=(BLOCKS, DIMS)), "is_linear": np.full(BLOCKS, False)}
    found, end = measured(theta)
    assert found.eigenvalues.shape == (BLOCKS, IMAGES, DIMS)
    x, product = STATES, np.broadcast_to(np.eye(DIMS), (IMAGES, DIMS, DIMS))
    for i, (w, b) in enumerate(zip(theta["w"], theta["b"], strict=True)):
        slope = np.tanh(x @ w.T + b)
        dense = 0.8 * (1 - slope**2)[..., None] * w
        eigenvalues = np.sort_complex(np.linalg.eigvals(dense))
        np.testing.assert_allclose(np.sort_complex(found.eigenvalues[i]), eigenvalues, atol=1e-8)
        symmetric = np.linalg.eigvalsh((dense + dense.swapaxes(1, 2)) / 2)
        np.testing.assert_allclose(found.log_norm[i], symmetric[:, -1], atol=1e-8)
        steps = np.eye(DIMS) + dense
        np.testing.assert_allclose(found.step_norm[i], np.linalg.norm(steps, 2, (1, 2)), atol=1e-8)
        product, x = steps @ product, x + 0.8 * slope
    np.testing.assert_allclose(end, x, atol=1e-12)
    exponents = np.log(np.linalg.svd(product, compute_uv=False)) / BLOCKS
    np.testing.assert_allclose(found.exponents, exponents, atol=1e-6)


class Convolved(nn.Module):
    """x + conv(tanh(norm(x))), n times; a stem and a head."""

    num_blocks: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(3, (3, 3), name="stem", dtype=images.dtype)(images)
        for i in range(self.num_blocks):
            x = ConvBlock(name=f"block{i}")(x)
        return nn.Dense(4, name="fc")(x.mean(axis=(1, 2)))


class ConvBlock(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.tanh(nn.BatchNorm(True, name="bn", dtype=x.dtype)(x))
        return residual(x, nn.Conv(x.shape[-1], (3, 3), name="conv", dtype=x.dtype)(y), None)


def test_certificate_of_a_network_has_the_numbers_of_its_blocks_dense_jacobians():
    model, shape = Convolved(2), (4, 3, 2)
    variables = random_variables(model, shape, dtype=np.float64)
    with jax.enable_x64(True):
        images = jnp.asarray(np.random.default_rng(0).normal(size=(2, *shape)))
        found = certify(model, variables, images, num_krylov=36, num_sweeps=60)
        (row,) = found.rows
        assert found.names == (("block0", "block1"),)
        x = nn.Conv(3, (3, 3), dtype=jnp.float64).apply({"params": variables["params"]["stem"]}, images)
        product = np.eye(36)
        block = partial(ConvBlock().apply)
        jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda x, at: block(at, x[None])[0]), (0, None)))
        for i in range(2):
            at = {name: tree[f"block{i}"] for name, tree in variables.items()}
            steps = np.asarray(jacobian(x, at)).reshape(2, 36, 36)
            fields = steps - np.eye(36)
            radius = abs(np.linalg.eigvals(steps)).max(axis=1)
            np.testing.assert_allclose(found.amplification()[i], radius, atol=1e-6)
            mu = np.linalg.eigvalsh(fields + fields.swapaxes(1, 2))[:, -1] / 2
            np.testing.assert_allclose(row.log_norm[i], mu, atol=1e-6)
            np.testing.assert_allclose(row.step_norm[i], np.linalg.norm(steps, 2, (1, 2)), atol=1e-6)
            assert row.step_norm[i].max() <= found.lipschitz[0][i] < np.inf
            product, x = steps @ product, block(at, x)
        values = np.linalg.svd(product, compute_uv=False)
        np.testing.assert_allclose(row.exponents, np.log(values[:, :2]) / 2, atol=1e-4)
        np.testing.assert_allclose(found.growth, values[:, 0].max(), rtol=1e-4)
        assert found.growth < found.growth_bound
        assert found.network_lipschitz < np.inf


def skew(scale: float) -> np.ndarray:
    matrix = np.random.default_rng(3).normal(size=(DIMS, DIMS))
    matrix -= matrix.T
    return scale * matrix / np.linalg.norm(matrix, 2)


def test_antisymmetric_flow_has_imaginary_eigenvalues_which_euler_amplifies_and_leapfrog_does_not():
    matrix = skew(1.5)
    found, _ = measured(linear(np.stack([matrix] * BLOCKS)))
    assert abs(found.eigenvalues.real).max() < 1e-10
    np.testing.assert_allclose(abs(found.eigenvalues.imag).max(), 1.5)
    np.testing.assert_allclose(found.log_norm, 0, atol=1e-10)
    outer = found.eigenvalues[abs(found.eigenvalues) > 0.01]
    assert not is_stable(outer).any()
    assert is_stable(outer, LEAPFROG).all()
    assert not is_stable(2 * outer[abs(outer) > 1.4], LEAPFROG).any()
    np.testing.assert_allclose(found.step_norm, (1 + 1.5**2) ** 0.5)  # Euler's growth, each step
    np.testing.assert_allclose(found.log_growth[..., 0], 0.5 * np.log(1 + 1.5**2))


def test_exponents_of_a_linear_chain_are_logarithms_of_the_products_singular_values():
    matrices = np.random.default_rng(5).normal(size=(BLOCKS, DIMS, DIMS)) / 2
    found, _ = measured(linear(matrices))
    product = np.linalg.multi_dot([np.eye(DIMS) + m for m in matrices[::-1]])
    values = np.linalg.svd(product, compute_uv=False)
    np.testing.assert_allclose(found.exponents, np.tile(np.log(values) / BLOCKS, (IMAGES, 1)), atol=1e-6)


def certificate(eigenvalue: complex, log_norm: float, step_norm: float, log_growth: float) -> Certificate:
    """Of one row of two blocks that are alike, at one image."""
    row = Spectra(
        np.full((2, 1, 1), eigenvalue),
        np.full((2, 1), log_norm),
        np.full((2, 1), step_norm),
        np.zeros((2, 1, 2)),
        np.full((2, 1, 1), log_growth),
    )
    return Certificate((("a", "b"),), (row,), (np.full(2, np.inf),), np.inf, "mul")


def test_verdict_is_the_first_rule_that_fits():
    cases = {
        "contractive": certificate(-0.5, -0.3, 1.0, -0.2),
        "stable": certificate(0.5j, 0.1, 3.0, 0.1),
        "undecided": certificate(0.5j, 0.1, 3.3, 0.1),
        "unstable": certificate(1.5, 1.5, 4.0, 1.2),
    }
    for word, found in cases.items():
        assert found.verdict == word
        assert str(found).startswith(f"{word}: ")
        assert "no bound, for `mul`" in str(found)
    found = cases["stable"]
    np.testing.assert_allclose([found.growth, found.growth_bound], [np.exp(0.2), 9.0])
    np.testing.assert_allclose(found.flow_bound, np.exp(0.2))
    np.testing.assert_allclose(found.amplification(), 1.25**0.5)
    np.testing.assert_allclose(found.amplification("leapfrog", h=2.0), 1.0)
    assert "leave the region of Euler, midpoint, Heun;" in str(found)


def test_picture_has_eigenvalues_bounds_and_growth():
    figure = plot_certificate(certificate(0.5j, 0.1, 3.3, 0.1), ("Euler", "RK4", "leapfrog"))
    axes: Any = figure.axes
    plane, bounds, growth = axes
    assert plane.get_title().startswith("undecided")
    assert len(plane.collections[-1].get_offsets()) == 2
    assert {line.get_label() for line in plane.lines} >= {"Euler", "RK4", "leapfrog"}
    np.testing.assert_allclose(bounds.lines[1].get_ydata(), np.log([3.3, 3.3]))
    np.testing.assert_allclose(growth.lines[0].get_ydata(), np.array([0, 0.1, 0.2]) / np.log(10))


def test_equal_blocks_are_one_compiled_function_wherever_they_stand():
    first, second = flows(CifarResNet((2, 2), widths=(4, 8)), SHAPE)
    elsewhere = replace(first, paths=("layer9_0",) * 5, start=7, t1=2.0)
    assert step_of(first) == step_of(elsewhere)
    assert hash(step_of(first)) == hash(step_of(elsewhere))
    assert step_of(first) != step_of(second)


class Halving(nn.Module):
    """One residual block, which changes the shape."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(2, name="fc")(HalvingBlock(name="block")(images).mean(axis=(1, 2)))


class HalvingBlock(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return residual(x[:, ::2, ::2], nn.Conv(x.shape[-1], (3, 3), (2, 2), name="conv")(x), None)


def test_network_without_steps_of_a_flow_is_told():
    images, plain = random_batch(1)[0], tiny_resnet(8, shortcut=None)
    with pytest.raises(ValueError, match="no block of this Halving keeps its shape"):
        certify(Halving(), random_variables(Halving()), images)
    with pytest.raises(ValueError, match="has no residual block"):
        certify(plain, random_variables(plain), images)


def test_states_that_are_not_finite_and_settings_of_nothing_are_told():
    matrices = np.stack([np.eye(DIMS)] * BLOCKS)
    matrices[2, 0, 0] = np.inf
    with pytest.raises(ValueError, match="what block 2 of the row reads, or its Jacobian, is not finite"):
        measured(linear(matrices))
    with pytest.raises(ValueError, match="one at least"):
        spectra(layer, jnp.asarray(STATES), {}, jax.random.key(0), num_krylov=0)
    with pytest.raises(ValueError, match="needs an image"):
        certify(Halving(), {}, jnp.zeros((0, *SHAPE)))


@pytest.mark.slow
def test_blocks_with_an_activation_behind_the_sum_and_rows_of_other_shapes_are_certified():
    model = CifarResNet((3, 3), widths=(4, 8))
    found = certify(model, random_variables(model), random_batch(3)[0])
    assert [len(names) for names in found.names] == [3, 2]
    assert found.amplification().shape == (5, 3)
    for row, bounds in zip(found.rows, found.lipschitz, strict=True):
        assert (row.step_norm <= bounds[:, None]).all()
        assert (np.exp(row.exponents[:, 0] * len(bounds)) <= row.step_norm.prod(axis=0) * 1.001).all()
        assert (row.residuals < 0.1 * np.stack([row.step_norm, row.step_norm**2], axis=-1)).all()
