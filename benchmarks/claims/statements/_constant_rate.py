"""Short trainings at a constant learning rate; and the library's networks without their batch norm."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.typing import DTypeLike

import flaxarch
from flaxarch.layers import Conventions, ModuleDef


class Identity(nn.Module):
    """In the place of `nn.BatchNorm`: x -> x."""

    scale_init: Any = None  # which networks give their norms; there is no scale

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


@dataclass(frozen=True)
class Unnormalised(Conventions):
    """No batch norm; convolutions have biases, as batch norm's are gone, and start as they do with it."""

    conv_bias: bool = True

    def norm(self, train: bool, dtype: DTypeLike, axis_name: str | None) -> ModuleDef:
        del train, dtype, axis_name
        return Identity


def losses_by_rate(
    model: nn.Module,
    seed: int,
    rates: Iterable[float],
    batches: Callable[[], Iterable[tuple[jax.Array, jax.Array]]],
    worst: float,
) -> list[float]:
    """Mean loss in nats over the last tenth of the batches, at each rate: SGD with momentum 0.9, no decay.

    At most `worst`, which a run has that is not finite.
    """
    init, apply = flaxarch.functional(model)

    def loss_fn(params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array) -> Any:
        logits, batch_stats = apply(params, batch_stats, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), batch_stats

    @jax.jit
    def step(state: Any, images: jax.Array, labels: jax.Array, rate: jax.Array) -> Any:
        params, batch_stats, velocity = state
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, batch_stats), grads = grad_fn(params, batch_stats, images, labels)
        velocity = jax.tree.map(lambda v, grad: 0.9 * v + grad, velocity, grads)
        params = jax.tree.map(lambda p, v: p - rate * v, params, velocity)
        return (params, batch_stats, velocity), loss

    first_images, _ = next(iter(batches()))
    params, batch_stats = jax.jit(init)(jax.random.key(seed), first_images)
    start = params, batch_stats, jax.tree.map(jnp.zeros_like, params)
    found = []
    for rate in rates:
        state, losses = start, []
        for images, labels in batches():
            state, loss = step(state, images, labels, rate)
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                losses = [worst]
                break
        last = losses[-max(1, len(losses) // 10) :]
        found.append(min(worst, sum(last) / len(last)))
    return found
