"""Stages as differential equations: Euler's method is the network, and solvers have their orders."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.depth import (
    EULER,
    HEUN,
    MIDPOINT,
    RK4,
    Chain,
    Flow,
    apply_flows,
    flows,
    legendre,
    solve,
    theta_at,
)
from flaxarch.models.cifar_resnet import CifarResNet
from flaxarch.models.preact_unit import Activation, batch_norm, identity
from flaxarch.models.resnet import Bottleneck, projection
from tests.depth.nets import SHAPE, random_batch, random_variables, tiny_preact, tiny_resnet

_create: Any = flaxarch.create
NETWORKS = {
    "relu(x + F(x))": (CifarResNet((2,), widths=(4,)), SHAPE),
    "x + F(x)": (tiny_preact(stage_sizes=(3,)), SHAPE),
    "bottleneck": (CifarResNet((3,), block=Bottleneck, widths=(4,), shortcut=projection), SHAPE),
}
MORE = {
    "option A": (tiny_preact(stage_sizes=(3, 2), shortcut=identity, widths=(16, 16)), SHAPE),
    "wide": (_create("wrn_16_4").clone(depth=22, widen_factor=1), SHAPE),
    "excited": (_create("seresnet20").clone(stage_sizes=(2, 2), widths=(16, 16)), SHAPE),
    "inverted": (_create("mobilenet_v2"), (32, 32, 3)),
}
PARAMETERS = [
    *(pytest.param(*row, id=name) for name, row in NETWORKS.items()),
    *(pytest.param(*row, id=name, marks=pytest.mark.slow) for name, row in MORE.items()),
]


def float64(model: Any, shape: Any) -> tuple[Any, Any, jax.Array]:
    """A network, its variables, and images."""
    images = jnp.asarray(random_batch(3, shape)[0], jnp.float64)
    return model.clone(dtype=jnp.float64), random_variables(model, shape, dtype=np.float64), images


@pytest.mark.parametrize(("model", "shape"), PARAMETERS)
def test_euler_with_as_many_steps_as_blocks_is_the_network(model: Any, shape: Any):
    def end(flow: Flow, x: jax.Array, theta: Any) -> jax.Array:
        return solve(flow.vector_field, x, theta, flow.times(flow.num_blocks), EULER)

    def skip(flow: Flow, x: jax.Array, theta: Any) -> jax.Array:
        return x

    with jax.enable_x64(True):
        model, variables, images = float64(model, shape)

        @jax.jit
        def both(variables: Any, images: jax.Array) -> Any:
            walked, skipped = (apply_flows(model, variables, images, each) for each in (end, skip))
            return walked, skipped, model.apply(variables, images, train=False)

        walked, skipped, logits = both(variables, images)
        scale = abs(logits).max()
        np.testing.assert_allclose(walked, logits, rtol=0, atol=1e-12 * scale)
        assert abs(skipped - logits).max() > 0.01 * scale


@pytest.mark.parametrize(("model", "shape"), PARAMETERS[:2] + PARAMETERS[3:-1])
def test_euler_moves_batch_statistics_as_the_network_in_training(model: Any, shape: Any):
    with jax.enable_x64(True):
        model, variables, images = float64(model, shape)

        @jax.jit
        def both(variables: Any, images: jax.Array) -> Any:
            walked = variables

            def end(flow: Flow, x: jax.Array, theta: Any) -> jax.Array:
                nonlocal walked
                x, moved = flow.euler(theta, x)
                walked = flow.unstack(walked, {"batch_stats": moved})
                return x

            logits = apply_flows(model, variables, images, end, train=True)
            expected = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return (logits, walked), expected

        (logits, walked), (expected, moved) = both(variables, images)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-10 * abs(expected).max())
        for path in (path for flow in flows(model, shape) for path in flow.paths):
            found, old = walked["batch_stats"][path], variables["batch_stats"][path]
            close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
            jax.tree.map(close, found, moved["batch_stats"][path])
            changes = jax.tree.map(lambda x, y: abs(x - y).max(), found, old)
            assert all(change > 0.001 for change in jax.tree.leaves(changes))


@pytest.mark.parametrize(
    ("model", "is_projected"),
    [(tiny_preact(stage_sizes=(2,)), False), (CifarResNet((2,), widths=(4,)), True)],
)
def test_field_is_the_branch_or_what_of_it_keeps_x_from_going_below_zero(model: Any, is_projected: bool):
    variables = random_variables(model)
    chain, flow = Chain(model, SHAPE), flows(model, SHAPE)[-1]
    assert flow.start + flow.num_blocks == 2
    x = np.maximum(np.random.default_rng(0).normal(size=(2, *SHAPE[:2], 4)).astype(np.float32), 0)

    @jax.jit
    def both(x: jax.Array) -> Any:
        last = flow.num_blocks - 0.5  # a time of the last block
        slope = flow.vector_field(jnp.float32(last), x, flow.stack(variables))
        half = replace(flow, t1=flow.num_blocks / 2)
        twice = half.vector_field(jnp.float32(last / 2), x, half.stack(variables))
        return slope, twice, chain.branch(variables, x, 1)

    slope, twice, branch = both(x)
    expected = np.maximum(branch, -x) if is_projected else branch
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(twice, 2 * slope, rtol=1e-6, atol=1e-6)
    assert (branch < -x).any()


def test_stacked_variables_go_back_to_where_they_were():
    model = CifarResNet((2, 2), widths=(4, 8))
    variables, found = random_variables(model), flows(model, SHAPE)
    assert [flow.paths for flow in found] == [("layer1_0", "layer1_1"), ("layer2_1",)]
    assert [(flow.start, flow.num_blocks, flow.t1) for flow in found] == [(0, 2, 2), (3, 1, 1)]
    emptied = jax.tree.map(np.zeros_like, variables)
    for flow in found:
        theta = flow.stack(variables)
        assert theta["params"]["conv1"]["kernel"].shape[0] == flow.num_blocks
        emptied = flow.unstack(emptied, theta)
    for collection, tree in variables.items():
        for path in ("layer1_0", "layer1_1", "layer2_1"):
            jax.tree.map(np.testing.assert_array_equal, emptied[collection][path], tree[path])
    assert not np.any(emptied["params"]["layer2_0"]["conv1"]["kernel"])


def tanh(x: jax.Array, norm: Any, name: str) -> jax.Array:
    del norm, name
    return jnp.tanh(x)


def conv3x3(conv: Any, features: int, strides: int) -> Any:
    return (partial(conv, features, (3, 3), (strides, strides), padding=1),)


def smooth_flow(num_coefficients: int) -> tuple[Flow, Any, jax.Array]:
    """A smooth field on t in [0, 1], theta(t) of it, a polynomial, and x(0); in float64."""
    smooth = Activation(before=(batch_norm, tanh))
    model = tiny_preact(stage_sizes=(1 + num_coefficients,), activation=smooth, branch=conv3x3)
    model = model.clone(dtype=jnp.float64)
    flow = replace(flows(model, SHAPE)[-1], basis=legendre, t1=1.0)
    theta = flow.stack(random_variables(model, dtype=np.float64))
    for leaf in jax.tree.leaves(theta):
        leaf[1:] *= 0.3  # so that no variance is negative
    theta["params"]["conv1"]["kernel"] *= 0.3
    return flow, theta, jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 4)))


def test_solvers_have_their_orders_where_theta_is_smooth_in_time():
    with jax.enable_x64(True):
        flow, theta, x = smooth_flow(3)

        @partial(jax.jit, static_argnums=1)
        def end(times: Any, solver: Any) -> jax.Array:
            return solve(flow.vector_field, x, theta, times, solver)

        def padded(num_steps: int) -> np.ndarray:  # by steps of no length: compiled once for all numbers
            return np.append(flow.times(num_steps), np.ones(128 - num_steps))

        exact = end(padded(128), RK4)
        for solver, order in ((EULER, 1), (MIDPOINT, 2), (HEUN, 2), (RK4, 4)):
            coarse, fine = (np.linalg.norm(end(padded(n), solver) - exact) for n in (16, 32))
            assert abs(np.log2(coarse / fine) - order) < 0.15


def test_solver_keeps_its_order_where_steps_begin_at_jumps_of_theta():
    """x' = theta(t) x with theta piecewise constant: its logarithm grows by theta_i h on each interval."""
    theta = np.array([0.3, -0.5, 0.7], np.float32)

    def vector_field(t: jax.Array, x: jax.Array, theta: Any) -> jax.Array:
        return theta_at(theta, t) * x

    for solver, tolerance in ((RK4, 1e-5), (HEUN, 1e-3)):
        x = solve(vector_field, jnp.ones(()), theta, np.linspace(0, 1, 10), solver)
        assert abs(np.log(x) - theta.mean()) < tolerance


def test_networks_without_blocks_of_a_field_are_told():
    with pytest.raises(ValueError, match="has no residual block"):
        flows(tiny_resnet(8, shortcut=None), SHAPE)
    outside = _create("squeezenet1_1_bypass")
    flow = flows(outside, (24, 24, 3))[0]
    images = jax.ShapeDtypeStruct((1, 24, 24, 3), jnp.float32)
    variables = jax.eval_shape(partial(outside.init, train=False), jax.random.key(0), images)
    theta = jax.eval_shape(flow.stack, variables)
    with pytest.raises(ValueError, match=r"x \+ F\(x\) is not inside this module"):
        jax.eval_shape(flow.vector_field, 0.0, jnp.zeros((1, 5, 5, 128)), theta)
    flow = flows(tiny_resnet(14), SHAPE)[0]
    with pytest.raises(ValueError, match="the variables of 2 blocks"):
        flow.unstack({}, {"params": {"conv1": jnp.zeros(3)}})
