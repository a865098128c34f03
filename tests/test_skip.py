"""Stochastic depth that skips: equal to gates, but for what a dropped block would have computed."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxarch
from flaxarch.depth import with_exits
from flaxarch.models.cifar_resnet import CifarResNet
from flaxarch.models.preact_resnet import CifarPreAct
from flaxarch.models.resnet import projection
from flaxarch.residual import skip_dropped

NETWORKS: dict[str, Any] = {
    "zeros for new features": CifarResNet((1, 2, 1), widths=(4, 8, 8)),
    "projections": CifarResNet((1, 2, 1), widths=(4, 8, 8), shortcut=projection),
    "pre-activation": CifarPreAct((1, 2, 1), widths=(16, 16, 16)),
}
GATES = jnp.array([1.0, 0.0, 1.0, 0.0])
LABELS = jnp.array([1, 0, 3])


def images(size: int = 8) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (3, size, size, 3))


def step(model: Any, *, skip: bool) -> Any:
    """(variables, gates) -> loss, gradients and moved statistics, compiled."""

    def loss(params: Any, batch_stats: Any, gates: Any) -> Any:
        apply = partial(model.apply, {"params": params, "batch_stats": batch_stats}, images(), train=True)
        if skip:
            with skip_dropped():
                logits, moved = apply(gates=gates, mutable=["batch_stats"])
        else:
            logits, moved = apply(gates=gates, mutable=["batch_stats"])
        return -jax.nn.log_softmax(logits)[jnp.arange(3), LABELS].mean(), moved["batch_stats"]

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize(
    "name", [x if x == "pre-activation" else pytest.param(x, marks=pytest.mark.slow) for x in NETWORKS]
)
def test_skipping_equals_gates_in_loss_and_gradients(name: str):
    model = NETWORKS[name]
    params, batch_stats = flaxarch.functional(model).init(jax.random.key(0), images())
    (loss, moved), gradients = step(model, skip=True)(params, batch_stats, GATES)
    (expected, all_moved), expected_gradients = step(model, skip=False)(params, batch_stats, GATES)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    chex.assert_trees_all_close(gradients, expected_gradients, atol=2e-6)
    for block in ("layer1_0", "layer2_1"):  # kept: number 0 and 2
        chex.assert_trees_all_close(moved[block], all_moved[block], rtol=1e-5)
    for block in ("layer2_0", "layer3_0"):  # dropped
        chex.assert_trees_all_equal(moved[block], batch_stats[block])
        assert any(bool((a != b).any()) for a, b in pairs(all_moved[block], batch_stats[block]))


def pairs(a: Any, b: Any) -> Any:
    return zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)


def test_block_is_in_a_conditional_whose_other_side_has_no_convolution():
    model = CifarResNet((1, 1, 1), widths=(4, 4, 4))
    variables = model.init(jax.random.key(0), images(), train=False)

    def forward(gates: jax.Array) -> jax.Array:
        with skip_dropped():
            return model.apply(variables, images(), train=True, gates=gates, mutable=["batch_stats"])[0]

    text = str(jax.jit(forward).lower(jnp.ones(3)).as_text())
    assert text.count("stablehlo.case") == 3
    assert text.count("stablehlo.convolution") == 1 + 3 * 2  # the stem, and two a block: one side each


def test_gates_that_differ_from_image_to_image_multiply():
    model = NETWORKS["projections"]
    variables = model.init(jax.random.key(0), images(), train=False)
    gates = jax.random.bernoulli(jax.random.key(2), 0.5, (4, 3)).astype(jnp.float32)
    with skip_dropped():
        skipped = model.apply(variables, images(), train=False, gates=gates)
    chex.assert_trees_all_equal(skipped, model.apply(variables, images(), train=False, gates=gates))


def test_chances_in_evaluation_scale_the_branches():
    model = NETWORKS["projections"].clone(survival_prob=0.5)
    variables = model.init(jax.random.key(0), images(), train=False)
    with skip_dropped():
        skipped = model.apply(variables, images(), train=False)
    np.testing.assert_allclose(skipped, model.apply(variables, images(), train=False), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_dropout_in_a_block_draws_under_skipping():
    model = flaxarch.create("wrn_16_4").clone(widen_factor=1, dropout_rate=0.5)
    variables = model.init(jax.random.key(0), images(), train=False)

    @jax.jit
    def logits(key: jax.Array) -> jax.Array:
        rngs: Any = {"dropout": key}
        with skip_dropped():
            return model.apply(
                variables, images(), train=True, gates=jnp.ones(6), rngs=rngs, mutable=["batch_stats"]
            )[0]

    first, again, other = (logits(jax.random.key(seed)) for seed in (0, 0, 1))
    assert bool((first == again).all())
    assert bool((first != other).any())


def test_devices_that_take_batch_statistics_together_skip_together():
    devices = jax.local_device_count()
    model = CifarResNet((1, 1, 1), widths=(4, 4, 4), axis_name="devices")
    variables = CifarResNet((1, 1, 1), widths=(4, 4, 4)).init(jax.random.key(0), images(), train=False)
    x = jnp.stack([images() * i for i in range(1, devices + 1)])
    gates = jnp.array([1.0, 0.0, 1.0])

    def forward(x: jax.Array, *, skip: bool) -> jax.Array:
        apply = partial(model.apply, variables, x, train=True, gates=gates, mutable=["batch_stats"])
        if not skip:
            return apply()[0]
        with skip_dropped():
            return apply()[0]

    skipped, expected = (jax.pmap(partial(forward, skip=skip), "devices")(x) for skip in (True, False))
    np.testing.assert_allclose(skipped, expected, rtol=1e-5, atol=1e-6)


def test_exits_see_blocks_that_may_be_skipped():
    network = CifarResNet((1, 2, 1), widths=(4, 8, 8))
    model = with_exits(network, after=("conv1", "layer1_0", "layer2_1"))
    variables = model.init(jax.random.key(0), images(), train=False)

    def gradients(params: Any, *, skip: bool) -> Any:
        def loss(params: Any) -> jax.Array:
            apply = partial(model.apply, {**variables, "params": params}, images(), train=True, gates=GATES)
            if skip:
                with skip_dropped():
                    outputs, _ = apply(mutable=["batch_stats"])
            else:
                outputs, _ = apply(mutable=["batch_stats"])
            return sum((x**2).sum() for x in jax.tree.leaves(outputs))  # pyright: ignore[reportReturnType]

        return jax.jit(jax.grad(loss))(params)

    skipped, expected = (gradients(variables["params"], skip=skip) for skip in (True, False))
    chex.assert_trees_all_close(skipped, expected, rtol=2e-5, atol=2e-5)
