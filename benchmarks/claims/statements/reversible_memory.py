"""What a gradient keeps of 16 and of 512 blocks, whose states are found again or stay."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxarch
from benchmarks.claims.claim import Check, Claim, Measured, Places
from flaxarch.models.ode_fields import Antisymmetric, Bias, Hamiltonian, Pair
from flaxarch.models.ode_resnet import OdeResNet
from flaxarch.ode.multistep import TwoStepMidpoint

BLOCKS = (16, 128, 512)
BATCH, SIZE, FEATURES = 64, 32, 8
_base = OdeResNet((16,), (FEATURES, FEATURES), field=Pair, times=(4.0,), scan=True, num_classes=10)
NETWORKS = {
    "RevNet": _base,
    "Hamiltonian": _base.clone(field=Hamiltonian, block_norm=Bias),
    "midpoint": _base.clone(field=Antisymmetric, block_norm=Bias, method=TwoStepMidpoint()),
}


def _gradient(model: OdeResNet, batch_stats: Any) -> Any:
    def loss(params: Any, images: jax.Array) -> jax.Array:
        variables = {"params": params, **batch_stats}
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return (logits**2).mean()

    return jax.jit(jax.grad(loss))


def _peak(model: OdeResNet) -> float:
    """MiB that the compiled gradient takes beside parameters, images and gradients."""
    images = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.float32)
    variables = dict(jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images))
    params = variables.pop("params")
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables)
    compiled = _gradient(model, zeros).lower(params, images).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def _difference(model: OdeResNet, seed: int) -> float:
    """Of the gradients, relative, over all parameters; drawn images and parameters, of 64 blocks."""
    images = jnp.asarray(np.random.default_rng(seed).normal(size=(4, 16, 16, 3)), jnp.float32)
    model = model.clone(stage_sizes=(64,))
    params, batch_stats = flaxarch.functional(model).init(jax.random.key(seed), images)
    variables = {"batch_stats": batch_stats} if batch_stats else {}
    found, kept = (
        jax.tree.leaves(_gradient(model.clone(reversible=x), variables)(params, images))
        for x in (True, False)
    )
    squares = [(float(((a - b) ** 2).sum()), float((b**2).sum())) for a, b in zip(found, kept, strict=True)]
    return float(np.sqrt(sum(a for a, _ in squares) / sum(b for _, b in squares)))


def measure(seed: int, places: Places) -> Measured:
    """Peaks by the number of blocks, and differences of gradients."""
    del places
    values: dict[str, float] = {}
    curves: dict[str, list[float]] = {}
    for name, model in NETWORKS.items():
        values[f"difference of gradients, {name}"] = _difference(model, seed)
        peaks = {
            words: [_peak(model.clone(stage_sizes=(n,), reversible=reversible)) for n in BLOCKS]
            for words, reversible in (("reversible", True), ("states kept", False))
        }
        for words, each in peaks.items():
            values[f"peak of 512 blocks over 16, {name}, {words}"] = each[-1] / each[0]
            curves[f"{name}, {words}"] = each
    return Measured(values, curves)


def _draw(axes: Any, kept: Any) -> None:
    """MiB over blocks."""
    for name, curve in kept["seeds"]["0"]["curves"].items():
        axes.plot(BLOCKS, curve, "s--" if name.endswith("kept") else "o-", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")


CLAIM = Claim(
    "The memory of a reversible network's gradient does not grow with its depth, and the gradient is "
    "backpropagation's.",
    "Gomez et al. 2017, Sec. 3; Chang et al. 2018 (Reversible architectures)",
    f"One stage of {FEATURES} features on {BATCH} images of {SIZE}x{SIZE}, in training, T = 4: what XLA "
    "says that the compiled gradient takes beside parameters, images and gradients, MiB; copies of the "
    "parameters are in it. States that are kept are those of the same loop without undoing. Gradients of 64 "
    "blocks are compared in float32, over all parameters.",
    measure,
    (
        *(Check(f"peak of 512 blocks over 16, {name}, reversible", high=1.3) for name in NETWORKS),
        *(Check(f"peak of 512 blocks over 16, {name}, states kept", low=15.0) for name in NETWORKS),
        *(Check(f"difference of gradients, {name}", high=1e-4) for name in NETWORKS),
    ),
    calibrated="how much the peak with all states is to grow at least.",
    x="blocks",
    y="MiB",
    draw=_draw,
)
