"""From a function of images, as JAX traces it, to a graph of ONNX operations.

What does not depend on the images is computed; loops over blocks are written out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend import core

from flaxarch.export.graph import CannotExport, Graph
from flaxarch.export.layout import NCHW, Tensor, aligned, whole
from flaxarch.export.operations import IDENTITIES, OPERATIONS
from flaxarch.ops import use_native_forms

_INLINED = {  # primitives that call a function, and where they have it
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}


def traced(
    function: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    image_shape: tuple[int, int, int],
    layout: str,
) -> Graph:
    """The graph of function(variables, images), for any number of images (H, W, C) and these variables.

    With `layout` "NCHW" it reads images (N, C, H, W) and gives maps (N, K, H, W); "NHWC" is as JAX has it.
    Raises CannotExport, which names the operation that has no form in ONNX.
    """
    (count,) = export.symbolic_shape("N")
    images = jax.ShapeDtypeStruct((count, *image_shape), np.float32)
    with use_native_forms(True):
        closed, result = jax.make_jaxpr(function, return_shape=True)(variables, images)
    graph, shape = Graph(), images.shape
    order = NCHW if layout == "NCHW" else (0, 1, 2, 3)
    graph.shapes[graph.input] = tuple(shape[axis] for axis in order)
    given = [*map(np.asarray, jax.tree.leaves(variables)), Tensor(graph.input, shape, order)]
    (y,) = _run(graph, closed.jaxpr, closed.consts, given)
    if not isinstance(y, Tensor):
        raise CannotExport("the network's result does not depend on the images")
    is_map = len(result.shape) == 4 and layout == "NCHW"
    y = whole(graph, aligned(graph, y, NCHW if is_map else range(len(result.shape))))
    graph.outputs = [y.name]
    return graph


def _run(
    graph: Graph, jaxpr: Any, consts: Sequence[Any], given: Sequence[Any], scope: str = ""
) -> list[Tensor | np.ndarray]:
    """Adds what a jaxpr does to the graph; its results, as arrays where no image decides them."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, given, strict=True))

    def read(atom: Any) -> Any:
        return values[atom] if isinstance(atom, core.Var) else np.asarray(atom.val, atom.aval.dtype)

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        modules = str(equation.source_info.name_stack).split("/")[1:]  # in the network, which is first
        path = scope or "/".join(modules)
        graph.scope = path
        outputs = _applied(graph, equation, inputs, path)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _applied(graph: Graph, equation: Any, inputs: list[Any], scope: str) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name in _INLINED:
        inner = params[_INLINED[name]]
        jaxpr, consts = (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())
        return _run(graph, jaxpr, consts, inputs, scope)
    shapes = [variable.aval.shape for variable in equation.outvars]
    is_fixed = all(isinstance(n, int) for shape in shapes for n in shape)
    if is_fixed and not any(isinstance(x, Tensor) for x in inputs):
        return _computed(equation, inputs)
    if name == "scan":
        return _written_out(graph, params, inputs, scope)
    if name == "cond" and not isinstance(inputs[0], Tensor):
        branch = params["branches"][int(inputs[0])]
        return _run(graph, branch.jaxpr, branch.consts, inputs[1:], scope)
    if name in IDENTITIES:
        return inputs
    if name not in OPERATIONS:
        raise CannotExport(
            f"{scope or 'the network'} has the operation {name!r}, for which there is no form in ONNX here"
        )
    result = OPERATIONS[name](graph, equation.outvars, params, *inputs)
    return list(result) if isinstance(result, list) else [result]


_ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {  # without a compilation for each shape
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}


def _computed(equation: Any, inputs: list[Any]) -> list[np.ndarray]:
    """What an operation makes of arrays."""
    name, params = equation.primitive.name, equation.params
    dtype = equation.outvars[0].aval.dtype
    if name in _ELEMENTWISE and np.issubdtype(dtype, np.floating):
        return [np.asarray(_ELEMENTWISE[name](*inputs), dtype)]
    if name == "reshape":
        return [inputs[0].reshape(params["new_sizes"])]
    outputs = equation.primitive.bind(*inputs, **params)
    outputs = outputs if equation.primitive.multiple_results else [outputs]
    return [x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x) for x in outputs]


def _written_out(graph: Graph, params: dict[str, Any], inputs: list[Any], scope: str) -> list[Any]:
    """A loop's steps one after the other."""
    num_consts, num_carry, length = params["num_consts"], params["num_carry"], params["length"]
    consts, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
    stacked = inputs[num_consts + num_carry :]
    if any(isinstance(x, Tensor) for x in stacked):
        raise CannotExport(f"{scope or 'the network'} has a 'scan' over what depends on the images")
    body, collected = params["jaxpr"], []
    for i in reversed(range(length)) if params["reverse"] else range(length):
        results = _run(graph, body.jaxpr, body.consts, [*consts, *carry, *(x[i] for x in stacked)], scope)
        carry = results[:num_carry]
        collected.append(results[num_carry:])
    if params["reverse"]:
        collected.reverse()
    columns = list(zip(*collected, strict=True))
    if any(isinstance(x, Tensor) for column in columns for x in column):
        raise CannotExport(f"{scope or 'the network'} has a 'scan' that keeps the state of each step")
    return [*carry, *(np.stack(column) for column in columns)]
