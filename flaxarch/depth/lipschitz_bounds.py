"""Certified Lipschitz bounds: by how much at most a function of an image stretches distances.

Szegedy et al. 2014, Sec. 4.3, https://arxiv.org/abs/1312.6199: a layer's bound is its operator's norm, layers
in a row multiply, and where two paths meet their bounds are added. A function's jaxpr is followed from
equation to equation; what does not depend on the image is computed. Convolutions have the bound of
`norm_bound`, after what only scales their features, such as batch norm in evaluation, is taken into the
kernel; and x + c K^T s(K x + b), a gradient's step, that of a symmetric matrix. Distances are Euclidean, of
all pixels and features of one image; bounds are exact to the rounding of the parameters' type. Where an
equation has no bound, such as a product of two features, the function has none.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flaxarch.analysis.layers import scan_counts
from flaxarch.depth.lipschitz_rules import RULES, Lipschitz, Varying
from flaxarch.ops import use_native_forms


def lipschitz(fn: Callable[[jax.Array], jax.Array], input_shape: Sequence[int]) -> Lipschitz:
    """The bound of a function of one image (1, *input_shape), such as a block with its variables.

    >>> lipschitz(lambda x: model.apply(variables, x, train=False), (32, 32, 3))      # of all logits

    It is that of any batch where images do not see each other, as in evaluation.
    """
    return lipschitz_each(lambda _, x: fn(x), (), input_shape, 1)[0]


def lipschitz_each(
    fn: Callable[[Any, jax.Array], jax.Array], stacked: Any, input_shape: Sequence[int], number: int
) -> list[Lipschitz]:
    """The bounds of fn(variables, x) for each of the variables that are stacked: traced once for all."""
    variables = jax.device_get(stacked)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), variables)
    with use_native_forms(True):
        closed = jax.make_jaxpr(fn)(shapes, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32))
    bounds = []
    for i in range(number):
        at = [leaf[i] for leaf in jax.tree.leaves(variables)]
        (found,) = _run(closed.jaxpr, closed.consts, [*at, Varying(1.0)])
        bounds.append(found.bound() if isinstance(found, Varying) else Lipschitz(0.0))
    return bounds


def _run(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Values of a jaxpr's outputs: arrays, or `Varying`."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(var: Any) -> Any:
        return var.val if hasattr(var, "val") else env[var]

    for eqn in jaxpr.eqns:
        values = [read(x) for x in eqn.invars]
        outputs = _visit(eqn, values)
        env |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _visit(eqn: Any, values: list[Any]) -> list[Any]:
    name, p = eqn.primitive.name, eqn.params
    varying = [x for x in values if isinstance(x, Varying)]
    inner = p.get("jaxpr", p.get("call_jaxpr"))
    if name == "scan" and varying:
        return _scan(p, values)
    if name != "scan" and inner is not None and len(getattr(inner, "jaxpr", inner).invars) == len(values):
        return _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)
    if not varying:
        found = eqn.primitive.bind(*values, **p)
        return list(found) if eqn.primitive.multiple_results else [found]
    if name in RULES and (found := RULES[name](eqn, values, varying)) is not None:
        return [found] * len(eqn.outvars)
    obstacle = next((x.obstacle for x in varying if x.obstacle), name)
    return [Varying(math.inf, obstacle)] * len(eqn.outvars)


def _scan(p: Any, values: list[Any]) -> list[Any]:
    """A loop of fixed length, as often as it runs; what depends on the image may be carried on only."""
    (num_consts, num_carry), body = scan_counts(p), p["jaxpr"]
    consts, carry = values[:num_consts], values[num_consts:][:num_carry]
    xs, num_ys = values[num_consts + num_carry :], len(body.out_avals) - num_carry
    if any(isinstance(x, Varying) for x in xs):
        return [Varying(math.inf, "scan")] * (num_carry + num_ys)
    steps = range(p["length"])
    for i in reversed(steps) if p["reverse"] else steps:
        carry = _run(body.jaxpr, body.consts, [*consts, *carry, *(x[i] for x in xs)])[:num_carry]
    return [*carry, *[Varying(math.inf, "scan")] * num_ys]
