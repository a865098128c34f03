"""Networks whose blocks change places: Veit, Wilber & Belongie 2016, Sec. 4.3, https://arxiv.org/abs/1605.06431.

Two blocks can change places where they are alike: the same modules, for the same shapes. A network is
reordered by its variables, so that its compiled function serves every order.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from flaxarch.depth.trunk import Block, blocks
from flaxarch.loops import in_form_of, unstack_blocks


def groups(found: Sequence[Block]) -> list[list[int]]:
    """The blocks, by number, that can change places with each other; blocks that can with none are left out.

    Of a ResNet they are a stage's blocks that keep the shape.
    """
    places: list[list[int]] = []
    for i, block in enumerate(found):
        if block.input_shape == block.output_shape:
            for alike in places:
                other = found[alike[0]]
                if (block.modules, block.input_shape) == (other.modules, other.input_shape):
                    alike.append(i)
                    break
            else:
                places.append([i])
    return [alike for alike in places if len(alike) > 1]


def swap_random(key: jax.Array, found: Sequence[Block], num_swaps: int, num_draws: int) -> np.ndarray:
    """(num_draws, num_blocks): orders after `num_swaps` random swaps of two blocks that are alike.

    order[i] is the number of the block that stands at place i. Each swap takes one of all pairs, of equal
    chance, and may undo an earlier one. Raises ValueError where no two blocks are alike.
    """
    pairs = [(i, j) for alike in groups(found) for i in alike for j in alike if i < j]
    if not pairs:
        raise ValueError("no two blocks of this network are alike, so that none can change places")
    drawn = np.asarray(jax.random.randint(key, (num_draws, num_swaps), 0, len(pairs)))
    orders = np.tile(np.arange(len(found)), (num_draws, 1))
    for order, swaps in zip(orders, drawn, strict=True):
        for i, j in (pairs[swap] for swap in swaps):
            order[i], order[j] = order[j], order[i]
    return orders


def kendall_tau(orders: ArrayLike) -> np.ndarray:
    """Kendall's rank correlation of orders (..., n) with the network's own: 1 for it, -1 for its reverse.

    Over all blocks, those at their places included.
    """
    order = np.asarray(orders)
    n = order.shape[-1]
    is_inverted = np.triu(order[..., :, None] > order[..., None, :], 1)
    return 1 - 4 * is_inverted.sum(axis=(-2, -1)) / (n * (n - 1))


def reorder(model: nn.Module, variables: Any, input_shape: Sequence[int], order: jax.Array) -> Any:
    """The variables of the network in which block order[i] stands at place i.

    `order`, which may be traced, must be one that `check_orders` allows.
    """
    found = blocks(model, input_shape)
    variables = unstack_blocks(variables)
    trees = jax.tree.map(lambda x: x, variables)  # new dictionaries of the same arrays
    for alike in groups(found):
        ranks = np.zeros(len(found), np.int32)
        ranks[alike] = np.arange(len(alike))
        drawn = jnp.asarray(ranks)[order[np.array(alike)]]
        for collection in variables:
            for paths in zip(*(found[i].paths for i in alike), strict=True):
                owners = [_parent(variables[collection], path) for path in paths]
                if any(owner is None for owner in owners):
                    continue  # no batch norm
                parts = [owner[path.split("/")[-1]] for owner, path in zip(owners, paths, strict=True)]
                moved = jax.tree.map(partial(_taken, drawn), *parts)
                for j, path in enumerate(paths):
                    owner = _parent(trees[collection], path)
                    owner[path.split("/")[-1]] = jax.tree.map(lambda x, j=j: x[j], moved)
    return in_form_of(model, trees)


def _taken(places: jax.Array, *leaves: jax.Array) -> jax.Array:
    return jnp.stack(leaves)[places]


def check_orders(model: nn.Module, input_shape: Sequence[int], orders: ArrayLike) -> None:
    """Raise a sentence unless all rows are permutations of blocks that are alike."""
    found, given = blocks(model, input_shape), np.asarray(orders)
    if given.ndim != 2 or given.shape[1] != len(found):
        raise ValueError(f"orders of shape {given.shape} do not fit this network: give (rows, {len(found)})")
    kind = np.arange(len(found))
    for alike in groups(found):
        kind[alike] = alike[0]
    is_order = (np.sort(given, axis=1) == np.arange(len(found))).all()
    if not is_order or (kind[given] != kind).any():
        row, place = np.argwhere(kind[given % len(found)] != kind)[0] if is_order else (0, 0)
        what = "is no permutation of the blocks"
        if is_order:
            what = f"puts {found[given[row, place]].name} in the place of {found[place].name}, unlike it"
        raise ValueError(f"an order, row {row}, {what}")


def _parent(tree: Any, path: str) -> Any:
    """The dictionary that has the last name of a path; None where there is none."""
    *above, name = path.split("/")
    for part in above:
        tree = tree.get(part, {})
    return tree if name in tree else None
