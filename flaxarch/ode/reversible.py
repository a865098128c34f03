"""Loops whose gradient keeps the last state alone, and finds those before it by running backwards.

Gomez et al. 2017 (RevNet), https://arxiv.org/abs/1707.04585: memory does not grow with the
number of steps, but by what the steps read; a step is computed once more than by backpropagation, and undone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax

# (state, inputs of a step) -> (state, outputs of the step)
Step = Callable[[Any, Any], tuple[Any, Any]]
# (state, inputs of a step) -> the state before it
Undo = Callable[[Any, Any], Any]


def reversible_scan(step: Step, undo: Undo, state: Any, inputs: Any) -> tuple[Any, Any]:
    """`lax.scan(step, state, inputs)`, whose gradient in reverse mode undoes the steps.

    The gradient is that of `lax.scan` as far as `undo` finds the states again: rounding errors that a step
    shrinks grow when it is undone. `step` and `undo` close over no traced array: what is differentiated is in
    `state` and `inputs`, all of whose leaves are of floating point, with a first axis of steps in `inputs`.
    """
    found: Any = _scan(step, undo, state, inputs)
    return found


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(step: Step, undo: Undo, state: Any, inputs: Any) -> tuple[Any, Any]:
    del undo
    return lax.scan(step, state, inputs)


def _forward(step: Step, undo: Undo, state: Any, inputs: Any) -> tuple[Any, Any]:
    del undo
    state, outputs = lax.scan(step, state, inputs)
    return (state, outputs), (state, inputs)


def _backward(step: Step, undo: Undo, kept: Any, grads: Any) -> tuple[Any, Any]:
    (state, inputs), (grad_state, grad_outputs) = kept, grads

    def back(carry: tuple[Any, Any], slices: tuple[Any, Any]) -> tuple[tuple[Any, Any], Any]:
        (state, grad_state), (inputs, grad_outputs) = carry, slices
        state = undo(state, inputs)
        _, pull = jax.vjp(step, state, inputs)
        grad_state, grad_inputs = pull((grad_state, grad_outputs))
        return (state, grad_state), grad_inputs

    carry, grad_inputs = lax.scan(back, (state, grad_state), (inputs, grad_outputs), reverse=True)
    return carry[1], grad_inputs


_scan.defvjp(_forward, _backward)
