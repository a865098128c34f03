"""How perturbations grow with depth in networks of four kinds, and whether a certificate knew it."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, accuracy, claim, images, trained
from flaxarch.analysis.attack import pgd
from flaxarch.depth.flow import Flow
from flaxarch.depth.stability import MAX_GROWTH, Certificate, certify, flow_starts
from flaxarch.models.ode_fields import Antisymmetric, Bias, Free, Hamiltonian, Parabolic
from flaxarch.models.ode_frames import CONVOLUTIONS, Frame
from flaxarch.models.ode_resampling import written_out
from flaxarch.models.ode_resnet import OdeResNet
from flaxarch.ode.bases import b_spline

STEP, DAMPING, COEFFICIENTS = 0.1, 1.0, 8
FIELDS: dict[str, Any] = {
    "plain residual": Free,
    "antisymmetric": partial(Antisymmetric, damping=DAMPING),
    "Hamiltonian": Hamiltonian,
    "parabolic": Parabolic,
}
NUM_CERTIFIED, NUM_PERTURBED, NUM_ATTACKED = 4, 16, 250
SIZE = 0.01  # of a perturbation, over the length of what the first block reads
EPSILON = 2 / 255


def _opening(network: Any, images: jax.Array, features: int, conv: Any, norm: Any) -> jax.Array:
    del network
    return nn.relu(norm(name="bn1")(conv(features, (3, 3), (2, 2), padding=1, name="conv1")(images)))


_FRAME = Frame(_opening, CONVOLUTIONS.connector, CONVOLUTIONS.pool, CONVOLUTIONS.head)


def network(kind: str, depth: int, width: int) -> OdeResNet:
    """`depth` steps of one length through a theta(t) of 8 B-splines, at half of the images' resolution."""
    return OdeResNet(
        (depth,),
        (width, 2 * width),
        field=FIELDS[kind],
        times=(STEP * depth,),
        basis=b_spline,
        num_coefficients=COEFFICIENTS,
        block_norm=Bias,
        num_classes=10,
        frame=_FRAME,
    )


def measured_growth(model: OdeResNet, variables: Any, images: jax.Array, key: jax.Array) -> float:
    """The most that a perturbation grows from the first block's input to the last one's output.

    Of finite ones, by running the network twice: the worst of each image, found by ascent on the distance.
    """
    ((flow, x, theta),) = flow_starts(model, variables, images)
    return float(_growth(flow, theta, x, key).max())


@partial(jax.jit, static_argnames="flow")
def _growth(flow: Flow, theta: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    end = flow.euler(theta, x)[0]
    size = SIZE * _length(x)

    def log_distance(change: jax.Array) -> jax.Array:
        moved = flow.euler(theta, x + change)[0] - end
        return jnp.log(_length(moved)).sum()

    def ascend(_: Any, change: jax.Array) -> jax.Array:
        gradient = jax.grad(log_distance)(change)
        return size * gradient / _length(gradient)

    start = jax.random.normal(key, x.shape)
    change = lax.fori_loop(0, 10, ascend, size * start / _length(start))
    return _length(flow.euler(theta, x + change)[0] - end) / size


def _length(x: jax.Array) -> jax.Array:
    """(N, 1, 1, 1), also of what is too large to be squared."""
    largest = lax.stop_gradient(abs(x).max(axis=(1, 2, 3), keepdims=True)) + jnp.finfo(x.dtype).tiny
    return largest * jnp.sqrt(((x / largest) ** 2).sum(axis=(1, 2, 3), keepdims=True))


def agrees(found: Certificate, growth: float) -> bool:
    """Whether a verdict is borne out by the growth of other images' perturbations."""
    if found.verdict == "contractive":
        return growth <= 1.01
    return (growth > MAX_GROWTH) == (found.verdict == "unstable")


@partial(jax.jit, static_argnames="model")
def _attacked_logits(
    model: Any, variables: Any, pixels: jax.Array, labels: jax.Array, statistics: Any, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of images as they are, and attacked."""
    mean, std = statistics

    def fn(x: jax.Array) -> jax.Array:
        return model.apply(variables, (x - mean) / std, train=False)

    return fn(pixels), fn(pgd(fn, pixels, labels, key, radius=EPSILON, num_steps=10))


@partial(jax.jit, static_argnames="model")
def _init(model: Any, key: jax.Array, images: jax.Array) -> Any:
    return model.init(key, images, train=False)


class Plan(NamedTuple):
    """Depths, and how networks are trained."""

    depths: tuple[int, ...]  # of networks that are not trained
    trained_depths: tuple[int, ...]
    flags: dict[str, Any]  # of the trainer, in place of the scale's


def _measure(seed: int, places: Places, *, scale: Scale, plan: Plan) -> Measured:
    """Growth, verdicts and accuracies of all kinds at all depths."""
    data, key = images(places, scale), jax.random.key(seed)
    x = data.test_set(NUM_CERTIFIED + NUM_PERTURBED)[0]
    pixels = jnp.asarray(data.test.images[:NUM_ATTACKED]) / 255
    labels = jnp.asarray(data.test.labels[:NUM_ATTACKED])
    statistics = [jnp.asarray(row, jnp.float32).reshape(1, 1, 1, 3) for row in (data.mean, data.std)]
    values: dict[str, float] = {}
    curves: dict[str, list[float]] = {"depth": list(map(float, plan.depths))}
    agreements, errors = [], []

    def log_growth(model: OdeResNet, variables: Any) -> float:
        """log10 of the measured growth, next to the certificate."""
        written = written_out(model, variables)
        found = certify(*written, x[:NUM_CERTIFIED], seed=seed)
        growth = measured_growth(*written, x[NUM_CERTIFIED:], key)
        agreements.append(agrees(found, growth))
        errors.append(abs(math.log10(found.growth / growth)))
        return math.log10(growth)

    for kind in FIELDS:
        logs = []
        for depth in plan.depths:
            model = network(kind, depth, scale.widths[0])
            logs.append(log_growth(model, _init(model, key, x[:1])))
        values[f"log10 growth per block, {kind}"] = (logs[-1] - logs[0]) / np.ptp(plan.depths)
        values[f"largest log10 growth, {kind}"] = max(logs)
        curves[kind] = logs
        logs, attacked = [], []
        for depth in plan.trained_depths:
            model = network(kind, depth, scale.widths[0])
            variables = trained(model, seed, places, scale, **plan.flags).variables
            logs.append(log_growth(model, variables))
            found = _attacked_logits(model, variables, pixels, labels, statistics, key)
            clean, under_attack = (accuracy(logits, labels) for logits in found)
            values[f"accuracy, {kind}, {depth} blocks"] = clean
            attacked.append(under_attack)
        values[f"log10 growth, trained {kind}"] = logs[-1]
        values[f"largest log10 growth, trained {kind}"] = max(logs)
        values[f"attacked accuracy, {kind}"] = attacked[-1]
        curves |= {f"trained {kind}": logs, f"attacked accuracy, {kind}": attacked}
    rate = values["log10 growth per block, plain residual"]
    for kind in ("antisymmetric", "Hamiltonian"):
        values[f"growth's rate over the plain one's, {kind}"] = (
            values[f"log10 growth per block, {kind}"] / rate
        )
    values["share of verdicts that agree"] = float(np.mean(agreements))
    values["largest error of the certified log10 growth"] = max(errors)
    return Measured(values, curves)


def _draw(axes: Any, kept: Any) -> None:
    """Growth over depth."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for number, kind in enumerate(FIELDS):
        for name, style in ((kind, "o-"), (f"trained {kind}", "s--")):
            logs = np.array([seed[name] for seed in seeds])
            depth = seeds[0]["depth"][: logs.shape[1]]
            axes.plot(depth, logs.mean(axis=0), style, color=f"C{number}", label=name)
            axes.fill_between(depth, logs.min(axis=0), logs.max(axis=0), color=f"C{number}", alpha=0.2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("symlog")


_PARABOLIC = 0.001  # log10: rounding
CHECKS = (
    Check("log10 growth per block, plain residual", low=0.02),
    Check("growth's rate over the plain one's, antisymmetric", high=0.25),
    Check("growth's rate over the plain one's, Hamiltonian", high=0.5),
    Check("largest log10 growth, parabolic", high=_PARABOLIC),
    Check("log10 growth, trained antisymmetric", high=-1.0, minus="log10 growth, trained plain residual"),
    Check("log10 growth, trained Hamiltonian", high=0.0, minus="log10 growth, trained plain residual"),
    Check("largest log10 growth, trained parabolic", high=_PARABOLIC),
    Check("share of verdicts that agree", low=0.9),
    Check("largest error of the certified log10 growth", high=0.5),
    Check("attacked accuracy, parabolic", low=0.0, minus="attacked accuracy, plain residual"),
)


def _claim(scale: Scale, plan: Plan, training: str) -> Claim:
    return claim(
        scale,
        CHECKS,
        statement="Perturbations grow exponentially with the depth of a plain residual network, far more "
        "slowly in antisymmetric and Hamiltonian ones, and not at all in parabolic ones, trained or not; and "
        "a certificate by a few images tells so of others.",
        source="Haber & Ruthotto 2017, Sec. 3 and 4; Ruthotto & Haber 2020, Sec. 3; the certificate is this "
        "library's",
        protocol=f"Networks of {scale.widths[0]} features and {_list(plan.depths)} steps of "
        f"length {STEP} without batch norm in them, whose theta(t) has {COEFFICIENTS} cubic "
        f"B-splines, after a convolution of stride 2; damping "
        f"{DAMPING:g} of the antisymmetric one. Growth: the largest, over {NUM_PERTURBED} test images, of a "
        f"perturbation by {SIZE:.0%} of what the first block reads that ten steps of ascent find, by running "
        f"the network with it and without. `certify` sees {NUM_CERTIFIED} other images; its verdict agrees "
        f'where it is "unstable" and the growth above {MAX_GROWTH:g}, or another and the growth not; and '
        '"contractive" only where nothing grows. Attacked accuracy is that of the deepest trained networks, '
        f"on {NUM_ATTACKED} images, after ten steps of PGD within {255 * EPSILON:g}/255 of each pixel. "
        f"Trained are networks of {_list(plan.trained_depths)} steps{training}.",
        measure=_measure,
        seeds=3,
        calibrated="all bounds, after a run with a seed that is not among these; but that nothing grows by "
        "parabolic networks' steps up to 2 / ||K||² is a theorem.",
        x="blocks",
        y="log10 of the largest growth",
        draw=_draw,
        plan=plan,
    )


def _list(numbers: tuple[int, ...]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


CLAIM = _claim(
    SMALL,
    Plan((16, 64, 512), (16, 64), {"steps": 200, "batch_size": 32, "clip_norm": 1.0}),
    ", as said below but by 200 updates of 32 images, gradients cut at a norm of 1: deeper ones take a "
    "laptop too long",
)
FULL = _claim(FULL_SCALE, Plan((16, 64, 512), (16, 64, 512), {"clip_norm": 1.0}), ", gradients cut at 1")
