"""Networks of differential equations: what follows from theta(t), from the method, and from undone steps."""

from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from rich.console import Console

import flaxarch
from flaxarch.depth import MIDPOINT, RK4, flows, legendre, piecewise_linear
from flaxarch.models.cifar_resnet import CifarResNet
from flaxarch.models.ode_fields import Antisymmetric, Bias, Free, Hamiltonian, Pair, Parabolic
from flaxarch.models.ode_resampling import resampled, written_out
from flaxarch.models.ode_resnet import OdeResNet
from flaxarch.ode.bases import b_spline
from flaxarch.ode.multistep import Leapfrog, LinearMultistep, Momentum, TwoStepMidpoint
from tests.depth.nets import SHAPE, random_batch, random_variables, tiny_preact

# One stage; tanh, for orders
TINY = OdeResNet(
    (4,), (6, 4), field=partial(Antisymmetric, act=jnp.tanh), block_norm=Bias, times=(1.0,), num_classes=3
)
NORMED = TINY.clone(field=Free, block_norm=None)
IMAGES = random_batch()[0]


def variables_of(model: Any) -> Any:
    params, batch_stats = flaxarch.functional(model).init(jax.random.key(0), IMAGES)
    return {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}


def logits(model: Any, variables: Any, **options: Any) -> jax.Array:
    return jax.jit(partial(model.apply, train=False, **options))(variables, IMAGES)


def step_of_training(model: Any, variables: Any) -> tuple[Any, Any, Any]:
    """Loss, gradients and new batch statistics."""

    @jax.jit
    def step(variables: Any) -> Any:
        def loss(params: Any) -> Any:
            given = {**variables, "params": params}
            out, updated = model.apply(given, IMAGES, train=True, mutable=["batch_stats"])
            return (out**2).sum(), updated

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (loss, updated), grads = step(variables)
    return loss, grads, updated


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    """Leaf by leaf, norm of the difference over the norm."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


REVERSIBLE = {
    "leapfrog": NORMED.clone(method=Leapfrog()),
    "momentum": NORMED.clone(method=Momentum(0.8)),
    "midpoint": TINY.clone(method=TwoStepMidpoint()),
    "hamiltonian": TINY.clone(field=Hamiltonian),
    "revnet": NORMED.clone(field=Pair, times=None),
}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=() if x == "midpoint" else pytest.mark.slow) for x in REVERSIBLE]
)
def test_reversible_network_trains_as_the_one_that_keeps_its_states(name: str):
    model = REVERSIBLE[name]
    variables = variables_of(model)
    found, expected = (step_of_training(model.clone(reversible=x), variables) for x in (True, False))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert_close(found[1], expected[1], 1e-4)
    assert_close(found[2], expected[2], 1e-5)


@pytest.mark.slow
def test_gradient_of_the_reversible_network_in_float64_is_exact():
    model = REVERSIBLE["leapfrog"].clone(dtype=jnp.float64)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables_of(REVERSIBLE["leapfrog"]))
        found, expected = (step_of_training(model.clone(reversible=x), variables) for x in (True, False))
    assert_close(found[1], expected[1], 1e-9)


def peak(model: Any) -> int:
    """Bytes that the compiled training step needs beside what it reads and gives."""
    images = jax.ShapeDtypeStruct((64, 16, 16, 3), jnp.float32)
    params = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)["params"]

    def loss(params: Any, images: jax.Array) -> jax.Array:
        return model.apply({"params": params}, images, train=True).sum()

    analysis: Any = jax.jit(jax.grad(loss)).lower(params, images).compile().memory_analysis()
    return analysis.temp_size_in_bytes


class Stem(Free):
    """Elementwise, so that a hundred blocks compile at once."""

    def slope(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.norm(name="norm1")(x))


@pytest.mark.slow
def test_memory_of_the_reversible_form_is_flat_from_16_to_128_blocks():
    frame = TINY.frame.__class__(
        lambda network, images, features, conv, norm: jnp.tile(images, (1, 1, 1, features // 3)),
        lambda x, features, conv, norm, name: x,
        TINY.frame.pool,
        TINY.frame.head,
    )
    model = TINY.clone(field=partial(Pair, fields=(Stem, Stem)), frame=frame, times=None)
    reversible = [peak(model.clone(stage_sizes=(n,), reversible=True)) for n in (16, 128)]
    kept = [peak(model.clone(stage_sizes=(n,), basis=piecewise_linear)) for n in (16, 128)]  # in a loop too
    assert reversible[1] < 1.1 * reversible[0]
    assert kept[1] > 5 * kept[0]


def test_basis_with_a_coefficient_for_each_step_is_the_network_of_blocks():
    variables = variables_of(NORMED)
    expected = step_of_training(NORMED, variables)
    found = step_of_training(NORMED.clone(basis=piecewise_linear), variables)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert_close(found[1], expected[1], 1e-4)
    assert_close(found[2], expected[2], 1e-5)


def test_method_and_steps_change_after_training_and_the_error_falls_by_the_methods_order():
    """As theta(t) is smooth: on pieces, it would jump within the steps of the coarse network."""
    with jax.enable_x64(True):
        model = TINY.clone(basis=legendre, num_coefficients=2, dtype=jnp.float64)
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables_of(model))
        exact = logits(model.clone(stage_sizes=(64,), method=RK4), variables)
        ends = (logits(model.clone(stage_sizes=(n,), method=MIDPOINT), variables) for n in (16, 32))
        coarse, fine = (np.linalg.norm(end - exact) for end in ends)
        assert abs(np.log2(coarse / fine) - 2) < 0.25


def test_kernels_of_theta_start_with_a_blocks_variance_and_scales_constant_in_time():
    for basis, num in ((legendre, 4), (b_spline, 5)):
        model = TINY.clone(
            stage_sizes=(8,), widths=(24, 4), field=Parabolic, basis=basis, num_coefficients=num
        )
        model = model.clone(block_norm=None)
        params = variables_of(model)["params"]
        kernels = np.stack([params[f"layer1_{k}"]["kernel"] for k in range(num)])
        matrix = basis(np.arange(8) / 8, num)
        variance = np.tensordot(matrix, kernels, 1).var(axis=(1, 2, 3, 4)).mean()
        assert abs(variance / (2 / (9 * 24)) - 1) < 0.1
        scales = np.stack([params[f"layer1_{k}"]["norm1"]["scale"] for k in range(num)])
        np.testing.assert_allclose(matrix @ scales, 1, atol=1e-6)


@pytest.mark.parametrize("free", [TINY, pytest.param(NORMED, marks=pytest.mark.slow)])
def test_tied_weights_are_one_block_and_batch_statistics_those_of_each_step(free: OdeResNet):
    model = free.clone(num_coefficients=1)
    variables = variables_of(model)
    assert [name for name in variables["params"] if name.startswith("layer")] == ["layer1_0"]
    copied = dict(variables["params"], **{f"layer1_{k}": variables["params"]["layer1_0"] for k in range(4)})
    expected = step_of_training(free, {**variables, "params": copied})
    found = step_of_training(model, variables)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert_close(found[2], expected[2], 1e-5)
    total = jax.tree.map(lambda *x: sum(x), *(expected[1][f"layer1_{k}"] for k in range(4)))
    assert_close(found[1]["layer1_0"], total, 1e-4)


def test_k_starts_near_zero_and_is_learned():
    model = TINY.clone(method=LinearMultistep)
    variables = variables_of(model)
    k = variables["params"]["k1"]
    assert k.shape == (4,)
    assert ((k >= -0.1) & (k <= 0)).all()
    _, grads, _ = step_of_training(model, variables)
    assert grads["k1"][0] == 0  # there is no x_{-1}
    assert (grads["k1"][1:] != 0).all()


def test_gates_of_zero_leave_the_frame_alone_whatever_the_method():
    variables = variables_of(TINY)
    for model in (TINY, TINY.clone(method=Leapfrog(), reversible=True)):
        closed = logits(model, variables, gates=jnp.zeros((4, len(IMAGES))))
        still = jax.tree.map(jnp.zeros_like, {k: v for k, v in variables["params"].items() if "layer" in k})
        expected = logits(TINY, {**variables, "params": {**variables["params"], **still}})
        np.testing.assert_allclose(closed, expected, rtol=1e-5)


def test_network_resampled_has_the_same_equation_with_more_steps_or_fewer():
    variables = variables_of(NORMED.clone(method=LinearMultistep))
    variables["params"]["layer1_1"]["conv1"]["kernel"] *= 2
    twice, more = resampled(NORMED.clone(method=LinearMultistep), variables, (8,))
    assert (twice.stage_sizes, twice.times) == ((8,), (1.0,))
    for j in range(8):
        jax.tree.map(
            np.testing.assert_array_equal,
            more["params"][f"layer1_{j}"],
            variables["params"][f"layer1_{j // 2}"],
        )
    assert more["params"]["k1"].shape == (8,)
    assert {name for name in more["batch_stats"] if "layer" in name} == {f"layer1_{j}" for j in range(8)}
    again, back = resampled(twice, more, (4,))
    assert again.stage_sizes == (4,)
    assert_close(back, variables, 1e-6)
    smooth = NORMED.clone(basis=b_spline)
    _, more = resampled(smooth, variables_of(smooth), (8,))
    assert sum(name.startswith("layer1") for name in more["params"]) == 4
    assert sum(name.startswith("layer1") for name in more["batch_stats"]) == 8


def test_stages_are_flows_of_alike_blocks():
    found = flows(flaxarch.create("parabolic_cifar10"), (32, 32, 3))
    assert [len(flow.paths) for flow in found] == [3, 3, 3]
    assert found[1].paths == ("layer2_0", "layer2_1", "layer2_2")
    assert [len(flow.paths) for flow in flows(flaxarch.create("ode_resnet_revnet"), (32, 32, 3))] == [6, 6, 6]


@pytest.mark.parametrize("fields", [{"basis": b_spline, "num_coefficients": 4}, {"num_coefficients": 1}])
def test_smooth_and_tied_networks_written_out_are_the_same_of_ordinary_blocks(fields: dict[str, Any]):
    model = NORMED.clone(scan=True, **fields)
    variables = variables_of(model)
    plain, written = written_out(model, variables)
    assert {f"layer1_{j}" for j in range(4)} <= set(written["params"])
    assert [flow.num_blocks for flow in flows(plain, SHAPE)] == [4]
    np.testing.assert_allclose(logits(plain, written), logits(model, variables), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"no blocks x \+ h F\(x\)"):
        written_out(model.clone(method=RK4), variables)


def test_lipschitz_network_expands_no_distance_from_image_to_logit():
    model = flaxarch.create("ode_resnet_lipschitz").clone(  # pyright: ignore[reportCallIssue]
        stage_sizes=(2, 2), times=(2.0, 2.0), widths=(4, 6, 6)
    )
    params = random_variables(model, SHAPE)["params"]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, *SHAPE)).astype(np.float32)
    y = x + 10.0 ** rng.uniform(-2, 0.5, (200, 1, 1, 1)).astype(np.float32) * rng.normal(size=x.shape)
    evaluate: Any = partial(model.apply, {"params": params}, train=False)
    one, other = (np.asarray(evaluate(jnp.asarray(each, jnp.float32))) for each in (x, y))
    ratio = abs(one - other) / np.linalg.norm((x - y).reshape(200, -1), axis=1, keepdims=True)
    assert 0.01 < ratio.max() < 1


MOMENTUM = {
    "resnet": CifarResNet((4,), widths=(4,)),
    "preact": tiny_preact(stage_sizes=(4,)),
}


@pytest.mark.parametrize("name", ["resnet", pytest.param("preact", marks=pytest.mark.slow)])
def test_field_that_makes_a_residual_network_reversible_keeps_variables_and_gradients(name: str):
    plain = MOMENTUM[name]
    model, variables = plain.clone(momentum=0.8), random_variables(plain)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), IMAGES)
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)
    found = step_of_training(model, variables)
    with mock.patch("flaxarch.loops.reversible_scan", lambda step, undo, *args: lax.scan(step, *args)):
        expected = step_of_training(model, variables)
    assert_close(found[1], expected[1], 1e-4)
    assert_close(found[2], expected[2], 1e-5)
    # towards a momentum of 0 it is the network
    near = logits(plain.clone(momentum=1e-6), variables)
    np.testing.assert_allclose(near, logits(plain, variables), rtol=1e-3, atol=1e-3)


def test_what_does_not_fit_together_is_told():
    fields: dict[str, Any]
    for fields, message in (
        ({"reversible": True}, "steps of this method cannot be undone"),
        ({"method": LinearMultistep, "reversible": True}, "cannot be undone"),
        ({"field": Pair, "method": RK4}, "a pair of states is a method of its own"),
        ({"widths": (4,)}, "1 stages have 2 widths"),
        ({"num_coefficients": 5, "basis": legendre}, "4 steps have 1 to 4 coefficients, not 5"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(partial(TINY.clone(**fields).init, train=False), jax.random.key(0), IMAGES)
    model = NORMED.clone(stage_sizes=(8,))
    with pytest.raises(ValueError, match="batch statistics of 4 steps, and trains with 8"):
        jax.eval_shape(
            partial(model.apply, train=True, mutable=["batch_stats"]), variables_of(NORMED), IMAGES
        )
    plain = MOMENTUM["resnet"]
    evaluate = partial(plain.clone(momentum=1.0).apply, train=False)
    with pytest.raises(ValueError, match=r"a momentum of 1\.0 is not reversible"):
        jax.eval_shape(evaluate, random_variables(plain), IMAGES)


@pytest.mark.slow
def test_trainer_trains_one_on_the_digits(tmp_path: Path):
    from train.config import Config
    from train.loop import train
    from train.metrics import read_rows

    create = flaxarch.create

    def small(name: str, num_classes: int | None = None, dtype: Any = jnp.float32) -> Any:
        fields: Any = {"stage_sizes": (2,), "times": (1.0,), "widths": (8, 8)}
        return create(name, num_classes, dtype).clone(basis=piecewise_linear, **fields)

    config = Config(model="ode_resnet_digits", steps=60, log_every=10, workdir=tmp_path / "run")
    with mock.patch("flaxarch.create", small):
        train(config, Console(file=StringIO()))
    losses = [row["loss"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert losses[-1] < 0.9 * losses[0]
