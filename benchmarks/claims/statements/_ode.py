"""What the claims on networks of differential equations share."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

import flaxarch
from benchmarks.claims.networks import Scale
from flaxarch.models.ode_fields import Free
from flaxarch.models.ode_resnet import OdeResNet


def ode_resnet(scale: Scale, num_steps: int, time: float, **fields: Any) -> OdeResNet:
    """Three stages of so many steps to `time`, in loops, of the scale's widths."""
    return OdeResNet(
        (num_steps,) * 3,
        (*scale.widths, scale.widths[-1]),
        field=Free,
        times=(time,) * 3,
        scan=True,
        num_classes=10,
        **fields,
    )


def with_statistics_of(model: OdeResNet, variables: Any, images: Any) -> Any:
    """The variables with the batch statistics of these images, taken in four batches."""
    batches = jnp.split(jnp.asarray(images), 4)
    return {**variables, "batch_stats": flaxarch.estimate_batch_stats(model, variables["params"], batches)}


def draw_by_step(axes: Any, kept: Mapping[str, Any]) -> None:
    """All curves of the first seed, over powers of two, on logarithmic axes."""
    for name, curve in kept["seeds"]["0"]["curves"].items():
        axes.plot([2**k for k in range(len(curve))], curve, ".-", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
