"""Dropout and stochastic depth that set in by degrees: each chance to drop is a traced share of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


@contextmanager
def with_share(model: Any, share: jax.Array | None) -> Iterator[Any]:
    """The network with its chances to drop units and blocks multiplied by `share`, to be applied within.

    None: the network as it is.
    """
    if share is None:
        yield model
        return
    if getattr(model, "survival_prob", 1) != 1:
        model = model.clone(survival_prob=1 - share * (1 - model.survival_prob))

    def call(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if type(module) is not nn.Dropout or context.method_name != "__call__" or module.deterministic:
            return method(*args, **kwargs)
        if not module.rate:
            return args[0]
        return _drop(args[0], share * module.rate, module)

    with nn.intercept_methods(call):
        yield model


def _drop(x: jax.Array, rate: jax.Array, module: nn.Dropout) -> jax.Array:
    """nn.Dropout's, whose own rate cannot be traced: it asks whether it is zero."""
    shape = [1 if axis in module.broadcast_dims else size for axis, size in enumerate(x.shape)]
    kept = jax.random.bernoulli(module.make_rng(module.rng_collection), 1 - rate, shape)
    return jnp.where(jnp.broadcast_to(kept, x.shape), (x / (1 - rate)).astype(x.dtype), jnp.zeros_like(x))
