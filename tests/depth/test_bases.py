"""Parameters in a basis of functions of depth, and networks made deeper and shallower by them."""

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxarch.depth import (
    b_spline,
    blocks,
    coarsen,
    flows,
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
from flaxarch.models.cifar_resnet import CifarResNet
from flaxarch.models.preact_unit import BN_AFTER_ADDITION, ORIGINAL, Activation, constant_scaling
from flaxarch.models.resnet import BasicBlock, Bottleneck, projection
from flaxarch.models.senet import excite
from flaxarch.ode.bases import before
from tests.depth.nets import SHAPE, VECTORS, DenseResidual, random_batch, random_variables, tiny_preact
from tests.depth.test_flow import tanh

quadratic = partial(b_spline, degree=2)
BASES = [piecewise_constant, piecewise_linear, legendre, fourier, b_spline, quadratic]
each_basis = pytest.mark.parametrize(
    "basis", BASES, ids=["constant", "linear", "legendre", "fourier", "cubic", "quadratic"]
)


def block_variables(num_blocks: int) -> Any:
    """Stacked, in float64."""
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
        third = jax.jit(partial(theta_at, basis=basis))(coefficients, jnp.float64(0.4))
        assert_close(third, jax.tree.map(lambda x: x[2], theta))


@each_basis
def test_what_is_refined_and_coarsened_is_what_it_was(basis: Any):
    theta = block_variables(5)
    finer = interpolate(theta, 10, basis)
    assert_close(jax.tree.map(lambda x: x[::2], finer), theta)
    assert_close(interpolate(finer, 5, basis), theta)


@each_basis
def test_projection_is_a_least_squares_fit_that_keeps_what_it_can_say(basis: Any):
    theta, s = block_variables(12), np.arange(12) / 12
    coefficients = project(theta, 5, basis)
    values = theta["params"]["conv"]["kernel"]
    rest = values - basis(s, 5) @ coefficients["params"]["conv"]["kernel"]
    np.testing.assert_allclose(basis(s, 5).T @ rest, 0, atol=1e-12)
    assert abs(rest).max() > 0.1
    again = project(theta_at(coefficients, s, basis), 5, basis)
    assert_close(again["params"], coefficients["params"])


def test_no_projection_makes_a_variance_negative():
    theta = block_variables(12)
    theta["batch_stats"]["bn"]["var"] = np.eye(12)[:, :2] * 100  # one block's is far above the others'
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


NETWORKS = {
    "relu(x + F(x))": CifarResNet((1,), widths=(4,)),
    "x + F(x)": tiny_preact(stage_sizes=(2,)),
    "bottleneck": CifarResNet((2,), block=Bottleneck, widths=(4,), shortcut=projection),
    "excited": CifarResNet((2,), block=partial(BasicBlock, excite=excite), widths=(16,)),
    "norm ahead of the sum": tiny_preact(stage_sizes=(2,), activation=ORIGINAL),
}


@pytest.mark.parametrize("name", ["relu(x + F(x))", pytest.param("x + F(x)", marks=pytest.mark.slow)])
def test_refinement_keeps_the_function_to_first_order(name: str):
    """Each time the depth doubles, the logits move half as much as the time before."""
    with jax.enable_x64(True):
        model, images = NETWORKS[name].clone(dtype=jnp.float64), jnp.asarray(random_batch(2)[0], jnp.float64)
        variables = random_variables(model, dtype=np.float64)
        for block in variables["params"].values():  # short steps, for which the first order is what counts
            for leaf in jax.tree.leaves(block.get("bn2", {}) if "bn1" in block else block.get("conv2", {})):
                leaf *= 0.05
        logits = []
        for _ in range(3):
            logits.append(jax.jit(partial(model.apply, train=False))(variables, images))
            model, variables = refine(model, variables, SHAPE)
        first, second = (np.linalg.norm(y - x) for x, y in pairwise(logits))
        assert abs(np.log2(first / second) - 1) < 0.2


@pytest.mark.parametrize("name", NETWORKS)
def test_refined_network_is_an_ordinary_one_of_half_the_step(name: str):
    model = NETWORKS[name]
    variables = random_variables(model)
    deeper, finer = refine(model, variables, SHAPE)
    images = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    expected = jax.eval_shape(partial(deeper.init, train=False), jax.random.key(0), images)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), finer)
    assert shapes == expected

    flow = flows(model, SHAPE)[-1]
    stage, last = flow.paths[-1].split("_")
    added = f"{stage}_{int(last) + flow.num_blocks}"
    old, new = (
        {name: tree[path] for name, tree in x.items()}
        for x, path in ((variables, flow.paths[-1]), (finer, added))
    )
    assert_close(new["batch_stats"], old["batch_stats"], 1e-6)

    @jax.jit
    def both(x: jax.Array) -> Any:
        return flow.block.apply(new, x), flow.block.apply(old, x, jnp.full((1, 1, 1, 1), 0.5))

    halved, gated = both(random_batch(2, blocks(model, SHAPE)[flow.start].input_shape)[0])
    np.testing.assert_allclose(halved, gated, rtol=1e-5, atol=1e-6)

    back, coarser = coarsen(deeper, finer, SHAPE)
    assert back == model
    assert_close(coarser, variables, 1e-6)


def test_resampled_network_has_the_sizes_and_coefficients_that_are_asked_for():
    model = tiny_preact(stage_sizes=(4, 2))
    variables = random_variables(model)
    deeper, more = resample(model, variables, SHAPE, (5, 2), basis=piecewise_linear)
    assert deeper.stage_sizes == (5, 2)
    kernels, old = (
        [x["params"][f"layer1_{j}"]["conv1"]["kernel"] for j in range(1, n)]
        for x, n in ((more, 5), (variables, 4))
    )
    for j, weights in enumerate([[1, 0, 0], [1 / 4, 3 / 4, 0], [0, 1 / 2, 1 / 2], [0, 0, 1]]):  # at 3j / 4
        np.testing.assert_allclose(kernels[j], np.tensordot(weights, old, axes=1), atol=1e-6)
    assert_close(more["params"]["layer1_0"], variables["params"]["layer1_0"], 0)
    same, fewer = resample(model, variables, SHAPE, (4, 2), num_coefficients=1)
    assert same == model
    for j in (1, 2, 3):
        assert_close(fewer["params"][f"layer1_{j}"]["conv1"]["kernel"], np.mean(old, axis=0), 1e-6)
    assert_close(fewer["params"]["layer2_1"], variables["params"]["layer2_1"], 0)


def test_networks_that_cannot_be_resized_are_told():
    preact: Any = partial(tiny_preact, stage_sizes=(2,))
    for model, sizes, sentence in (
        (preact(), (2, 2), "has 1 stages, and is given sizes of 2"),
        (preact(), (1,), "stage 1 has at least 2 blocks, not 1"),
        (preact(stage_sizes=(1,)), (2,), "stage 1 stays at 1 blocks"),
        (preact(shortcut=constant_scaling, widths=(16,)), (3,), "their shortcut is not x"),
        (preact(activation=BN_AFTER_ADDITION), (3,), "batch norm is behind the sum"),
        (preact(activation=Activation(last=(tanh,))), (3,), "is not homogeneous"),
    ):
        with pytest.raises(ValueError, match=sentence):
            resample(model, random_variables(model), SHAPE, sizes)
    with pytest.raises(ValueError, match="a DenseResidual cannot be resized"):
        refine(DenseResidual(2), {}, VECTORS)
