"""A Flax module as pure functions of arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

Params = Any
BatchStats = Any


class Functional(NamedTuple):
    """What a model is: two pure functions, which hold no state and may be transformed by JAX."""

    init: Callable[..., tuple[Params, BatchStats]]
    apply: Callable[..., tuple[Any, BatchStats]]


def functional(model: nn.Module) -> Functional:
    """The pure pair (init, apply) of a model.

    init(key, images) -> (params, batch_stats): parameters, and batch-norm statistics, `{}` where there is no
    batch norm. Of `images` only the shape counts; it may be a `jax.ShapeDtypeStruct`.

    apply(params, batch_stats, images, *, train, key=None, gates=None, exits=None) -> (logits, batch_stats):
    `train=True` normalises by the batch and returns statistics that have moved; with `train=False` they come
    back as they were. `key` feeds dropout and stochastic depth. `gates`, for residual networks, multiply the
    branches: (num_blocks,) or (num_blocks, N). `exits`, for networks with auxiliary heads: whether
    (logits, aux_logits) come back in place of logits; None is in training only.
    """

    def init(key: jax.Array, images: jax.Array | jax.ShapeDtypeStruct) -> tuple[Params, BatchStats]:
        shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
        variables = model.lazy_init(key, shape, train=False)
        return variables["params"], variables.get("batch_stats", {})

    def apply(
        params: Params,
        batch_stats: BatchStats,
        images: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
        gates: jax.Array | None = None,
        exits: bool | None = None,
    ) -> tuple[Any, BatchStats]:
        variables = {"params": params, "batch_stats": batch_stats}
        given = {key: x for key, x in {"gates": gates, "exits": exits}.items() if x is not None}
        rngs: Any = None
        if key is not None:
            dropout, coins = jax.random.split(key)
            rngs = {"dropout": dropout, "gates": coins}
        if not train:
            return model.apply(variables, images, train=False, rngs=rngs, **given), batch_stats
        logits, updated = model.apply(
            variables, images, train=True, rngs=rngs, mutable=["batch_stats"], **given
        )
        return logits, updated.get("batch_stats", {})

    return Functional(init, apply)


def features(model: nn.Module) -> Callable[..., dict[int, jax.Array]]:
    """`apply` for the feature pyramid, for detection and segmentation.

    Returns pyramid(params, batch_stats, images) -> {stride: feature map (N, H / stride, W / stride, C)}, in
    evaluation: the last map that the network has at each stride.
    """

    def pyramid(params: Params, batch_stats: BatchStats, images: jax.Array) -> dict[int, jax.Array]:
        variables = {"params": params, "batch_stats": batch_stats}
        _, taken = model.apply(variables, images, train=False, mutable=["features"])
        if "features" not in taken:
            raise ValueError(f"{type(model).__name__} has no stages, so no feature pyramid")
        maps: dict[int, Any] = {int(key.removeprefix("stride")): x for key, x in taken["features"].items()}
        return dict(sorted(maps.items()))

    return pyramid
