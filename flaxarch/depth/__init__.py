"""Networks seen along their depth: blocks deleted, reordered and told apart, and the paths through them."""

from flaxarch.depth.chain import Chain
from flaxarch.depth.ensemble import MAX_BLOCKS, interactions, shapley, subnetworks, variance_by_order
from flaxarch.depth.gates import apply_gated, delete_each, keep_random, subsets
from flaxarch.depth.orders import groups, kendall_tau, reorder, swap_random
from flaxarch.depth.paths import (
    Decay,
    decayed_lengths,
    effective_length,
    effective_lengths,
    fit_decay,
    gradients_along,
    num_effective_blocks,
    path_gradients,
    path_lengths,
)
from flaxarch.depth.scores import Scores, evaluate
from flaxarch.depth.trunk import Block, blocks, deletable

__all__ = [
    "MAX_BLOCKS",
    "Block",
    "Chain",
    "Decay",
    "Scores",
    "apply_gated",
    "blocks",
    "decayed_lengths",
    "deletable",
    "delete_each",
    "effective_length",
    "effective_lengths",
    "evaluate",
    "fit_decay",
    "gradients_along",
    "groups",
    "interactions",
    "keep_random",
    "kendall_tau",
    "num_effective_blocks",
    "path_gradients",
    "path_lengths",
    "reorder",
    "shapley",
    "subnetworks",
    "subsets",
    "swap_random",
    "variance_by_order",
]
