"""From one task to another: what is trained and what is kept, and batch norm on new data.

A new head comes with `flaxarch.load(path, num_classes=...)`, other channels with `in_channels=...`.
"""

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from flaxarch.functional import BatchStats, Params, functional
from flaxarch.layers import Conventions, Network

AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def label_params(params: Params, patterns: Mapping[str, str]) -> Any:
    """A label for each parameter, by the first shell pattern that its path matches.

    It is what `optax.multi_transform` takes:

    >>> labels = flaxarch.label_params(params, {"fc/*": "head", "*": "body"})
    >>> tx = optax.multi_transform({"head": optax.sgd(0.1), "body": optax.set_to_zero()}, labels)

    Paths are joined by "/", as "layer1_0/conv1/kernel". Raises ValueError where a pattern is the first match
    of no parameter, or a parameter matches none.
    """
    used = set()

    def label(path: Any, _: Any) -> str:
        name = "/".join(key.key for key in path)
        for pattern in patterns:
            if fnmatch.fnmatchcase(name, pattern):
                used.add(pattern)
                return patterns[pattern]
        raise ValueError(f"{name} matches none of the patterns {', '.join(patterns)}")

    labels = jax.tree.map_with_path(label, params)
    idle = [pattern for pattern in patterns if pattern not in used]
    if idle:
        raise ValueError(f"{idle[0]!r} labels no parameter; the modules are {', '.join(params)}")
    return labels


def freeze_batch_norm(model: AnyNetwork) -> AnyNetwork:
    """The network with batch norm by its running statistics in training too, which then stay as they are."""
    return model.clone(conventions=dataclasses.replace(_conventions(model), frozen=True))


def estimate_batch_stats(model: Network, params: Params, batches: Iterable[jax.Array]) -> BatchStats:
    """Batch-norm statistics of new data: the mean and the variance over all batches of images.

    Each norm sees what the ones before it, normalising by the batch at hand, let through, as in training;
    dropout and stochastic depth are off where the network's fields turn them off. Batches of different sizes
    count by their number of images. Raises ValueError where there is no batch.
    """
    conventions = dataclasses.replace(_conventions(model), frozen=False, momentum=0.0)
    apply = functional(model.clone(conventions=conventions)).apply
    measure = jax.jit(partial(apply, train=True, key=jax.random.key(0)))
    batch_stats, sums, count = None, None, 0
    for images in batches:
        if batch_stats is None:
            _, batch_stats = jax.eval_shape(functional(model).init, jax.random.key(0), images)
            batch_stats = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch_stats)
        _, found = measure(params, batch_stats, images)
        moments = jax.tree.map(partial(np.multiply, len(images)), _moments(jax.device_get(found)))
        sums = moments if sums is None else jax.tree.map(np.add, sums, moments)
        count += len(images)
    if sums is None:
        raise ValueError("there is no batch of images to take batch-norm statistics of")
    return _statistics(jax.tree.map(lambda x: x / count, sums))


def _conventions(model: Network) -> Conventions:
    return model.conventions  # pyright: ignore[reportAttributeAccessIssue]  # every family has the field


def _is_norm(tree: Any) -> bool:
    return isinstance(tree, Mapping) and set(tree) == {"mean", "var"}


def _moments(batch_stats: BatchStats) -> Any:
    """Means and mean squares, which may be averaged over batches; in float64, for they are subtracted."""

    def moments(norm: Any) -> Any:
        mean, var = norm["mean"].astype(np.float64), norm["var"].astype(np.float64)
        return {"mean": mean, "square": var + mean**2}

    return jax.tree.map(moments, batch_stats, is_leaf=_is_norm)


def _statistics(moments: Any) -> BatchStats:
    def statistics(norm: Any) -> Any:
        variance = norm["square"] - norm["mean"] ** 2
        return {"mean": jnp.asarray(norm["mean"]), "var": jnp.asarray(variance)}

    is_norm = lambda tree: isinstance(tree, Mapping) and set(tree) == {"mean", "square"}  # noqa: E731
    return jax.tree.map(statistics, moments, is_leaf=is_norm)
