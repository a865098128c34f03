"""Networks of differential equations in other forms: by other numbers of steps, and as ordinary blocks."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from flaxarch.models.ode_resnet import OdeResNet, at_places, places_of, stats_basis
from flaxarch.ode.bases import interpolate, piecewise_constant
from flaxarch.ode.solvers import EULER


def resampled(model: OdeResNet, variables: Any, stage_sizes: tuple[int, ...]) -> tuple[OdeResNet, Any]:
    """The same equations by other numbers of steps, and variables to go on training with.

    What is piecewise constant, with a coefficient for each step, has then one for each of the new steps
    (Chang et al. 2018b, https://arxiv.org/abs/1710.10348: copies, or means of neighbours); any other theta(t)
    stays. Batch statistics are those of the new steps' times. `variables` is {"params", "batch_stats"}.
    """
    times = model.times or tuple(map(float, model.stage_sizes))
    params, stats = dict(variables["params"]), dict(variables.get("batch_stats", {}))
    is_constant = model.basis is piecewise_constant
    for i, (old, new) in enumerate(zip(model.stage_sizes, stage_sizes, strict=True), start=1):
        for tree, basis in ((params, piecewise_constant), (stats, stats_basis(model.basis))):
            names = [f"layer{i}_{j}" for j in range(old)]
            if new == old or any(name not in tree for name in names) or (tree is params and not is_constant):
                continue
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(tree.pop, names))
            stacked = interpolate(stacked, new, basis)
            for j in range(new):
                tree[f"layer{i}_{j}"] = jax.tree.map(lambda x, j=j: x[j], stacked)
        if f"k{i}" in params:
            params[f"k{i}"] = interpolate(params[f"k{i}"], new, piecewise_constant)
    resized = model.clone(stage_sizes=tuple(stage_sizes), times=times)
    return resized, {"params": params, "batch_stats": stats}


def written_out(model: OdeResNet, variables: Any) -> tuple[OdeResNet, Any]:
    """The same network as an ordinary residual one, in which each step is a block with its own variables.

    For whatever looks at blocks one by one, as `flaxarch.depth` does: flows, lesions, certificates. Raises
    ValueError for methods other than Euler's, whose steps are no blocks x + h F(x).
    """
    if model.method != EULER:
        raise ValueError(
            "the steps of this method are no blocks x + h F(x): only Euler's can be written out as such"
        )
    written = {name: dict(tree) for name, tree in variables.items()}
    for name, basis in (("params", model.basis), ("batch_stats", stats_basis(model.basis))):
        tree = written.get(name, {})
        for i, num_steps in enumerate(model.stage_sizes, start=1):
            keys = [key for key in tree if key.startswith(f"layer{i}_")]
            parts = [tree.pop(f"layer{i}_{k}") for k in range(len(keys))]
            if not parts:
                continue
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
            places = partial(at_places, places=places_of(num_steps), basis=basis)
            at_steps = jax.tree.map(lambda leaf, places=places: places(leaf)[:, 0], stacked)
            for j in range(num_steps):
                tree[f"layer{i}_{j}"] = jax.tree.map(lambda x, j=j: x[j], at_steps)
    plain = model.clone(basis=piecewise_constant, num_coefficients=None, scan=False, reversible=False)
    return plain, written
