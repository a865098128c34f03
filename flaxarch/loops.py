"""Blocks of one shape in a loop, which compiles as soon as one of them, and their variables in two forms.

Ordinary variables have a subtree for each block: layer1_1, layer1_2, ... In the stacked form, which the loop
runs over as it is, those of one shape are a single subtree, layer1_1_to_17, whose leaves have a leading axis
of blocks. A network with `scan=True` is made for stacked variables, any other for ordinary ones.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from flaxarch.ode.multistep import Momentum
from flaxarch.ode.reversible import reversible_scan

Loops = tuple[tuple[str, ...], ...]  # for each stage, the names of its blocks of one shape; () for none

_STACK = re.compile(r"(.*_)(\d+)_to_(\d+)")


def loops_of(stage_sizes: Sequence[int], *, stride_last: bool = False) -> Loops:
    """The loops of a network whose blocks are layer1_0, layer1_1, ...

    A stage's first block is in none, nor is its last where `stride_last` says that this has the stride.
    """
    stages = enumerate(stage_sizes, start=1)
    return tuple(tuple(f"layer{i}_{j}" for j in range(1, n - stride_last)) for i, n in stages)


def stack_blocks(network: nn.Module, tree: Any) -> Any:
    """Ordinary variables in the stacked form, for `network.clone(scan=True)`.

    >>> variables = stack_blocks(model, variables)
    >>> logits = model.clone(scan=True).apply(variables, images, train=False)

    Args:
      network: has loops, as a ResNet or PreActResNet; its own `scan` makes no difference.
      tree: variables, or what is made of trees like them, such as their gradients, an optimizer's state or a
        whole training state, of JAX's or NumPy's arrays. What belongs to no block stays as it is.

    No value changes: `unstack_blocks` undoes it exactly. Raises ValueError where the network has no loops,
    and where blocks of one loop are missing or not alike.
    """
    if not hasattr(network, "loops"):
        raise ValueError(f"{type(network).__name__} has no loops over blocks, so that nothing is stacked")
    loops: Loops = network.loops()  # pyright: ignore[reportAttributeAccessIssue]
    in_loops = {name for names in loops for name in names}

    def has_blocks(x: Any) -> bool:
        return isinstance(x, dict) and not in_loops.isdisjoint(x)

    def stack(x: Any) -> Any:
        if not has_blocks(x):
            return x
        found = {name: value for name, value in x.items() if name not in in_loops}
        for names in filter(None, loops):
            if missing := [name for name in names if name not in x]:
                raise ValueError(f"{names[0]} cannot be stacked with others: there is no {missing[0]}")
            try:
                tree = jax.tree.map(lambda *leaves: _stack(leaves), *(x[name] for name in names))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{names[0]} to {names[-1]} cannot be stacked: they differ") from error
            found[_stack_of(names)] = tree
        return found

    return jax.tree.map(stack, tree, is_leaf=has_blocks)


def unstack_blocks(tree: Any) -> Any:
    """The ordinary form of stacked variables, and of what is made of trees like them.

    Undoes `stack_blocks`, of whatever network: the names of stacks tell what was stacked. What is in the
    ordinary form stays as it is.
    """

    def has_stacks(x: Any) -> bool:
        return isinstance(x, dict) and any(_names_in(name) for name in x)

    def unstack(x: Any) -> Any:
        if not has_stacks(x):
            return x
        found: dict[str, Any] = {}
        for name, value in x.items():
            leaves, structure = jax.tree.flatten(value)
            rows = [list(leaf) for leaf in leaves] if _names_in(name) else []
            for i, block in enumerate(_names_in(name)):
                found[block] = jax.tree.unflatten(structure, [row[i] for row in rows])
            if not _names_in(name):
                found[name] = value
        return found

    return jax.tree.map(unstack, tree, is_leaf=has_stacks)


def in_form_of(network: nn.Module, tree: Any) -> Any:
    """Variables, and what is made of trees like them, in the form that the network takes, from either."""
    is_looped = getattr(network, "scan", False) and hasattr(network, "loops")
    return stack_blocks(network, tree) if is_looped else unstack_blocks(tree)


def _stack_of(names: Sequence[str]) -> str:
    """The name of these blocks' stack."""
    return f"{names[0]}_to_{names[-1].rpartition('_')[2]}"


def _names_in(stack: Any) -> list[str]:
    """Names of the blocks that are in a stack of this name; none where it is no stack's."""
    match = _STACK.fullmatch(stack) if isinstance(stack, str) else None
    if match is None:
        return []
    prefix, first, last = match.groups()
    return [f"{prefix}{j}" for j in range(int(first), int(last) + 1)]


def _stack(leaves: Sequence[Any]) -> Any:
    """Of NumPy's arrays one of NumPy's: JAX would round those of float64."""
    return (np if all(isinstance(x, np.ndarray | np.generic) for x in leaves) else jnp).stack(leaves)


def check_form(network: Any) -> None:
    """Raise a sentence where a network is applied to variables in the other form than its `scan` says."""
    if network.is_initializing():
        return
    names, kind = network.variables.get("params", {}), type(network).__name__
    stacks = [_stack_of(names) for names in network.loops() if names]
    if network.scan and (missing := [stack for stack in stacks if stack not in names]):
        raise ValueError(
            f"this {kind} has scan=True and is given variables without {missing[0]}: "
            "flaxarch.loops.stack_blocks makes stacked variables of ordinary ones"
        )
    if not network.scan and any(map(_names_in, names)):
        raise ValueError(
            f"this {kind} has scan=False and is given stacked variables: "
            "flaxarch.loops.unstack_blocks makes ordinary ones of them"
        )


def scan_blocks(
    network: nn.Module,
    block: nn.Module,
    names: Sequence[str],
    x: jax.Array,
    gates: Sequence[jax.Array | None],
    *,
    stacked: bool = False,
    momentum: float | None = None,
) -> jax.Array:
    """Blocks of one shape, one after the other in a loop: compiled once, however many they are.

    Equal to calling them in turn, but for what they draw.

    Args:
      network: owns the variables, and is being applied; where they are stacked, it may be initialised too.
      block: any one of the blocks, made with `parent=None`.
      names: of the blocks in the network.
      x: what the first of them reads.
      gates: theirs; all are None or none is.
      stacked: whether the network's variables are. Ordinary ones are stacked in each call, by a program that
        grows with the number of blocks.
      momentum: of the reversible form (Sander et al. 2021), in which x moves by a velocity that goes towards
        block(x) - x; gradients keep the last state alone. Its blocks draw nothing. None: the blocks as they
        are.
    """
    stack = _stack_of(names)
    if stacked and network.is_initializing():
        _init_stack(network, block, stack, len(names), x)

    def inputs_of(collection: str) -> Any:
        if stacked:
            return network.get_variable(collection, stack, {})
        trees = [network.get_variable(collection, name) for name in names]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    mutable = network.is_mutable_collection("batch_stats")
    draws = network.has_rng("dropout") and momentum is None
    keys = jax.random.split(network.make_rng("dropout"), len(names)) if draws else None
    gate = None if gates[0] is None else jnp.stack([g for g in gates if g is not None])

    def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        params, batch_stats, gate, key = inputs
        variables = {"params": params, "batch_stats": batch_stats}
        rngs = None if key is None else {"dropout": key}
        y, updated = block.apply(variables, x, gate, rngs=rngs, mutable=["batch_stats"])
        return y, updated if mutable else {}

    inputs = inputs_of("params"), inputs_of("batch_stats"), gate, keys
    if momentum is None:
        x, updated = lax.scan(body, x, inputs)
    else:
        x, updated = _with_momentum(body, Momentum(momentum), x, inputs)
    if stacked and "batch_stats" in updated:
        network.put_variable("batch_stats", stack, updated["batch_stats"])
    elif "batch_stats" in updated:
        for i, name in enumerate(names):
            tree = jax.tree.map(lambda leaves, i=i: leaves[i], updated["batch_stats"])
            network.put_variable("batch_stats", name, tree)
    return x


def _init_stack(network: nn.Module, block: nn.Module, stack: str, num_blocks: int, x: jax.Array) -> None:
    """Variables of so many blocks, drawn at once: they are others than a network without the loop draws."""
    streams = [name for name in ("params", "dropout") if network.has_rng(name)]
    keys = {name: jax.random.split(network.make_rng(name), num_blocks) for name in streams}
    for collection, tree in jax.vmap(lambda keys: block.init(keys, x))(keys).items():
        network.put_variable(collection, stack, tree)


def _with_momentum(body: Callable[..., Any], method: Momentum, x: jax.Array, inputs: Any) -> tuple[Any, Any]:
    """The loop in its reversible form."""
    if not 0 < method.momentum < 1:
        raise ValueError(f"a momentum of {method.momentum} is not reversible: it is between 0 and 1")

    def slope(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        y, updated = body(x, inputs)
        return y - x, updated

    def step(state: Any, inputs: Any) -> tuple[Any, Any]:
        y, updated = slope(state[0], inputs)
        return method.step(state, y, 1.0), updated

    def undo(state: Any, inputs: Any) -> Any:
        return method.undo(state, lambda x: slope(x, inputs)[0], 1.0)

    state, updated = reversible_scan(step, undo, (x, method.start(x)), inputs)
    return state[0], updated
