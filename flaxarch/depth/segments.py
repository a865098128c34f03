"""Networks cut at their exits: what each exit says, what it costs, and its own part of the program."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from flaxarch.analysis.layers import collect_layers
from flaxarch.depth.scores import batched
from flaxarch.layers import Network
from flaxarch.ops import use_native_forms


def exit_logits(model: Network, variables: Any, images: jax.Array, *, batch_size: int = 200) -> jax.Array:
    """Logits of all exits, (num_exits, N, num_classes), from the first to the network's own head, the last.

    Args:
      model: a network with auxiliary heads, or `WithExits`.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network expects them.
      batch_size: images at a time.
    """
    check_exits(model)
    return _exit_logits(model, variables, images, batch_size=min(batch_size, len(images)))


@partial(jax.jit, static_argnames=("model", "batch_size"))
def _exit_logits(model: Network, variables: Any, images: jax.Array, *, batch_size: int) -> jax.Array:
    batches, *_ = batched(images, jnp.zeros(len(images)), batch_size)
    found = lax.map(lambda batch: jnp.stack(_all_logits(model, variables, batch)), batches)
    return jnp.concatenate(jnp.unstack(found), axis=1)[:, : len(images)]


def _all_logits(model: Network, variables: Any, images: jax.Array) -> tuple[jax.Array, ...]:
    outputs: Any = model.apply(variables, images, train=False, exits=True)
    return (*outputs[1], outputs[0])


def check_exits(model: Network) -> None:
    """Raise a sentence unless a network has exits."""
    if not getattr(model, "aux_heads", ()):
        raise ValueError(f"this {type(model).__name__} has no exits: `with_exits` gives it some")


def exit_macs(model: Network, input_shape: Sequence[int]) -> np.ndarray:
    """Multiply-accumulates of an image (H, W, C) that leaves by each exit, (num_exits,), exact as `cost`'s.

    All exits before are counted too: they were asked first.
    """
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    with use_native_forms(True):
        closed, found = segments(model, variables, images)
    eqns, macs = [], []
    for segment in found:
        eqns += segment.eqns
        part = program(closed, closed.jaxpr.invars, eqns, [segment.logits])
        macs.append(sum(layer.macs for layer in collect_layers(part, variables, {})))
    return np.array(macs)


@dataclass(frozen=True, eq=False)
class Segment:
    """What one exit needs and no exit before it did; all its variables are of the network's jaxpr."""

    eqns: list[Any]
    reads: list[Any]  # of parameters, images, and what the segments before it leave
    leaves: list[Any]  # for those behind it
    logits: Any


def segments(model: Network, variables: Any, images: Any) -> tuple[ClosedJaxpr, list[Segment]]:
    """The network's program (*leaves of the variables, images) -> logits of all exits, cut at the exits."""
    check_exits(model)
    leaves, tree = jax.tree.flatten(variables)

    def forward(leaves: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        return _all_logits(model, jax.tree.unflatten(tree, leaves), images)

    closed = jax.make_jaxpr(forward)(leaves, images)
    order = [*closed.jaxpr.invars, *(v for eqn in closed.jaxpr.eqns for v in eqn.outvars)]
    rest, parts = closed.jaxpr.eqns, []
    for logits in closed.jaxpr.outvars:
        needed, eqns, others = {logits}, [], []
        for eqn in reversed(rest):
            if needed.isdisjoint(eqn.outvars):
                others.append(eqn)
            else:
                eqns.append(eqn)
                needed.update(v for v in eqn.invars if not isinstance(v, Literal))
        rest = others[::-1]
        parts.append((eqns[::-1], needed, {v for eqn in eqns for v in eqn.outvars}, logits))
    found = []
    for k, (eqns, needed, made, logits) in enumerate(parts):
        reads = [v for v in order if v in needed and v not in made]
        later = set[Any]().union(*(needed for _, needed, _, _ in parts[k + 1 :]))
        found.append(Segment(eqns, reads, [v for v in order if v in made and v in later], logits))
    return closed, found


def program(closed: ClosedJaxpr, reads: list[Any], eqns: list[Any], gives: list[Any]) -> ClosedJaxpr:
    """A part of a jaxpr as one of its own."""
    debug_info = closed.jaxpr.debug_info.with_unknown_names()
    part = closed.jaxpr.replace(invars=reads, outvars=gives, eqns=eqns, debug_info=debug_info)
    return ClosedJaxpr(part, closed.consts)
