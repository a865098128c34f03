"""The rule of guided backpropagation, for whatever equations a network's ReLUs are.

Springenberg et al. 2015, https://arxiv.org/abs/1412.6806, Sec. 3.4 and Fig. 1.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Literal

from flaxarch.explain.program import Rule, bound

# Functions with a ReLU6 inside that is no activation but a part of their formula: x * relu6(x + 3) / 6.
_WHOLE = ("hard_sigmoid", "hard_silu", "hard_swish")
_LOOPS = ("scan", "while", "cond")
_COPIES = ("convert_element_type", "broadcast_in_dim", "reshape", "copy")


@jax.custom_vjp
def guided_relu(x: jax.Array) -> jax.Array:
    """max(x, 0), whose gradient passes on only what is positive, where x is."""
    return jnp.maximum(x, jnp.zeros_like(x))


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return guided_relu(x), x > 0


def _backward(is_on: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(is_on, jnp.maximum(gradient, jnp.zeros_like(gradient)), jnp.zeros_like(gradient)),)


guided_relu.defvjp(_forward, _backward)


def guide(closed: Any, network: str) -> Rule:
    """The rule for `Program.evaluate`, for the equations of a closed jaxpr.

    ValueError: there is no ReLU, or one is in a loop, whose equations are not seen one by one.
    """
    zeros = _zeros(closed.jaxpr, closed.consts, set())
    if not _count_relus(closed.jaxpr, zeros):
        raise ValueError(f"{network} has no ReLU to guide: guided backpropagation is its gradient")
    return partial(_rule, zeros)


def _rule(zeros: set[Any], eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """The outputs of an equation that is a ReLU, or has one inside; `zeros` are variables known to be 0."""
    if _is_relu(eqn, zeros):
        if eqn.primitive.name == "clamp":
            return [jnp.minimum(guided_relu(values[1]), values[2])]
        return [guided_relu(values[0 if _is_zero(eqn.invars[1], zeros) else 1])]
    if (inner := _inner(eqn)) is None:
        return None
    jaxpr, consts = inner
    inside = _zeros(jaxpr, consts, _handed(eqn, jaxpr, zeros))
    if not _count_relus(jaxpr, inside):
        return None
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
    for one in jaxpr.eqns:
        given = [x.val if isinstance(x, Literal) else env[x] for x in one.invars]
        outputs = _rule(inside, one, given) or bound(jaxpr, one, given)
        env |= dict(zip(one.outvars, outputs, strict=True))
    return [x.val if isinstance(x, Literal) else env[x] for x in jaxpr.outvars]


def _count_relus(jaxpr: Any, zeros: set[Any]) -> int:
    """How many ReLUs there are in a jaxpr: max(x, 0), alone or in a ReLU6, or a clamp, in any function."""
    count = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _LOOPS:
            if any(_count_relus(body, _zeros(body, (), set())) for body in _bodies(eqn)):
                raise ValueError(
                    f"guided backpropagation does not see into loops: a ReLU is in a `{eqn.primitive.name}`"
                )
        elif (inner := _inner(eqn)) is not None:
            count += _count_relus(inner[0], _zeros(*inner, _handed(eqn, inner[0], zeros)))
        else:
            count += _is_relu(eqn, zeros)
    return count


def _is_relu(eqn: Any, zeros: set[Any]) -> bool:
    if eqn.primitive.name == "max":
        return sum(_is_zero(x, zeros) for x in eqn.invars) == 1
    return eqn.primitive.name == "clamp" and _is_zero(eqn.invars[0], zeros)


def _zeros(jaxpr: Any, consts: Sequence[Any], given: set[Any]) -> set[Any]:
    """The variables of a jaxpr that are zero: `given`, and what is made of them and of literals."""
    zeros = set(given)
    for var, const in zip(jaxpr.constvars, consts, strict=False):
        if np.size(const) == 1 and not isinstance(const, Tracer) and not np.any(const):
            zeros.add(var)
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _COPIES and _is_zero(eqn.invars[0], zeros):
            zeros.update(eqn.outvars)
    return zeros


def _handed(eqn: Any, jaxpr: Any, zeros: set[Any]) -> set[Any]:
    """The arguments of a function that are zero where an equation calls it."""
    return {var for var, x in zip(jaxpr.invars, eqn.invars, strict=True) if _is_zero(x, zeros)}


def _is_zero(atom: Any, zeros: set[Any]) -> bool:
    return not np.any(np.asarray(atom.val)) if isinstance(atom, Literal) else atom in zeros


def _inner(eqn: Any) -> tuple[Any, Sequence[Any]] | None:
    """The jaxpr and constants of the function that an equation calls as it is; None: it calls none."""
    closed = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if closed is None or eqn.primitive.name in _LOOPS or eqn.params.get("name") in _WHOLE:
        return None
    jaxpr = getattr(closed, "jaxpr", closed)
    same = [x.aval.shape for x in jaxpr.invars] == [x.aval.shape for x in eqn.invars]
    return (jaxpr, getattr(closed, "consts", ())) if same else None


def _bodies(eqn: Any) -> list[Any]:
    values = [x for value in eqn.params.values() for x in (value if isinstance(value, tuple) else (value,))]
    return [getattr(x, "jaxpr", x) for x in values if hasattr(getattr(x, "jaxpr", x), "eqns")]
