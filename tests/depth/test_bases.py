"""Parameters in a basis of functions of depth, and networks made deeper and shallower by them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.depth import (
    b_spline,
    coarsen,
    fourier,
    interpolate,
    legendre,
    piecewise_constant,
    piecewise_linear,
    project,
    refine,
    resample,
    theta_at,
)
from flaxarch.depth.bases import before
from flaxarch.models.cifar_resnet import CifarResNet
from flaxarch.models.preact_unit import BN_AFTER_ADDITION, ORIGINAL, constant_scaling, projection
from flaxarch.models.resnet import BasicBlock, Bottleneck
from flaxarch.models.senet import excite
from tests.depth.nets import SHAPE, random_batch, random_variables, tiny_preact, tiny_vgg

quadratic = partial(b_spline, degree=2)
BASES = [piecewise_constant, piecewise_linear, legendre, fourier, b_spline, quadratic]
each_basis = pytest.mark.parametrize(
    "basis", BASES, ids=["constant", "linear", "legendre", "fourier", "cubic", "quadratic"]
)


def block_variables(num_blocks: int) -> Any:
    """Stacked, in float64 of NumPy; of one shape, so that little is compiled."""
    rng = np.random.default_rng(0)
    leaves = rng.normal(size=(3, num_blocks, 2))
    stats = {"bn": {"mean": leaves[1], "var": 1 + 0.1 * leaves[2]}}
    return {"params": {"conv": {"kernel": leaves[0]}}, "batch_stats": stats}


def assert_close(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=tolerance), found, expected)


@each_basis
def test_complete_basis_reproduces_the_parameters(basis: Any):
    with jax.enable_x64(True):
        theta = block_variables(5)
        coefficients = project(theta, 5, basis)
        assert_close(theta_at(coefficients, np.arange(5) / 5, basis), theta)
        assert_close(theta_at(coefficients, jnp.float64(0.4), basis), jax.tree.map(lambda x: x[2], theta))


@each_basis
def test_what_is_refined_and_coarsened_is_what_it_was(basis: Any):
    with jax.enable_x64(True):
        theta = block_variables(5)
        finer = interpolate(theta, 10, basis)
        assert_close(jax.tree.map(lambda x: x[::2], finer), theta)
        assert_close(interpolate(finer, 5, basis), theta)


@each_basis
def test_projection_is_a_least_squares_fit_that_keeps_what_it_can_say(basis: Any):
    with jax.enable_x64(True):
        theta, s = block_variables(12), np.arange(12) / 12
        coefficients = project(theta, 5, basis)
        values = theta["params"]["conv"]["kernel"]
        rest = values - basis(s, 5) @ coefficients["params"]["conv"]["kernel"]
        np.testing.assert_allclose(basis(s, 5).T @ rest, 0, atol=1e-12)
        assert abs(rest).max() > 0.1
        again = project(theta_at(coefficients, s, basis), 5, basis)
        assert_close(again["params"], coefficients["params"])


def test_no_projection_makes_a_variance_negative():
    theta = jax.tree.map(jnp.asarray, block_variables(12))
    theta["batch_stats"]["bn"]["var"] = jnp.eye(12)[:, :2] * 100  # one block's is far above the others'
    for basis in BASES:
        fitted = theta_at(project(theta, 5, basis), np.arange(24) / 24, basis)
        assert set(fitted["batch_stats"]["bn"]) == {"mean", "var"}
        assert (fitted["batch_stats"]["bn"]["var"] >= 0).all()


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_b_splines_are_a_partition_of_unity(degree: int):
    s = np.linspace(0, 1, 101)
    for num in (degree + 1, 9):
        values = b_spline(s, num, degree=degree)
        np.testing.assert_allclose(values.sum(axis=-1), 1, atol=1e-14)
        assert values.min() >= 0
        assert ((values > 0).sum(axis=-1) <= degree + 1).all()
        np.testing.assert_array_equal(values[[0, -1]], np.eye(num)[[0, -1]])
    hats = np.maximum(1 - abs(s[:, None] * 4 - np.arange(5)), 0)
    np.testing.assert_allclose(b_spline(s, 5, degree=1), hats, atol=1e-14)


def test_legendre_polynomials_and_fourier_functions_are_orthogonal():
    nodes, weights = np.polynomial.legendre.leggauss(40)
    s, weights = (nodes + 1) / 2, weights / 2
    for basis, norms in ((legendre, 1 / (2 * np.arange(7) + 1)), (fourier, [1] + 6 * [1 / 2])):
        values = basis(s, 7)
        np.testing.assert_allclose(values.T @ (weights[:, None] * values), np.diag(norms), atol=1e-13)
    np.testing.assert_allclose(legendre(1.0, 7), 1)


def test_times_of_steps_are_in_their_blocks_however_they_are_rounded():
    for num in range(1, 200):
        times = np.linspace(0, 1, num + 1).astype(np.float32)
        np.testing.assert_array_equal(piecewise_constant(times[:-1], num), np.eye(num))
        np.testing.assert_array_equal(piecewise_constant(before(times[1:]), num), np.eye(num))


def test_bases_that_blocks_do_not_determine_are_refused():
    for num_blocks, num, basis, sentence in (
        (4, 5, piecewise_linear, "4 blocks do not determine 5 coefficients of piecewise_linear"),
        (4, 0, legendre, "4 blocks do not determine 0 coefficients"),
        (18, 18, b_spline, "18 blocks do not determine 18 coefficients of b_spline: take fewer"),
        (4, 2, quadratic, "B-splines of degree 2 >= 1 are 3 at least, not 2"),
    ):
        with pytest.raises(ValueError, match=sentence):
            project({"x": np.zeros((num_blocks, 2))}, num, basis)
    with pytest.raises(ValueError, match=r"leaves of one length, not of \[2, 3\]"):
        project({"x": np.zeros(2), "y": np.zeros(3)}, 2, legendre)


