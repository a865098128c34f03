"""Networks seen along their depth: blocks deleted, reordered and told apart, their paths, and early exits."""

from flaxarch.depth.anytime import (
    Prediction,
    Tradeoff,
    anytime_predictor,
    choose_threshold,
    entropy,
    leave,
    tradeoff,
)
from flaxarch.depth.chain import Chain
from flaxarch.depth.ensemble import MAX_BLOCKS, interactions, shapley, subnetworks, variance_by_order
from flaxarch.depth.estimation import (
    Probe,
    Refinement,
    fit_probe,
    pooled_states,
    probe_accuracy,
    refinement,
)
from flaxarch.depth.exits import WithExits, stage_ends, with_exits
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
from flaxarch.depth.reuse import (
    Connection,
    apply_connected,
    as_matrices,
    connection_weights,
    connections,
    delete_sources,
    evaluate_connections,
)
from flaxarch.depth.scores import Scores, evaluate
from flaxarch.depth.segments import exit_logits, exit_macs
from flaxarch.depth.trunk import Block, blocks, deletable

__all__ = [
    "MAX_BLOCKS",
    "Block",
    "Chain",
    "Connection",
    "Decay",
    "Prediction",
    "Probe",
    "Refinement",
    "Scores",
    "Tradeoff",
    "WithExits",
    "anytime_predictor",
    "apply_connected",
    "apply_gated",
    "as_matrices",
    "blocks",
    "choose_threshold",
    "connection_weights",
    "connections",
    "decayed_lengths",
    "deletable",
    "delete_each",
    "delete_sources",
    "effective_length",
    "effective_lengths",
    "entropy",
    "evaluate",
    "evaluate_connections",
    "exit_logits",
    "exit_macs",
    "fit_decay",
    "fit_probe",
    "gradients_along",
    "groups",
    "interactions",
    "keep_random",
    "kendall_tau",
    "leave",
    "num_effective_blocks",
    "path_gradients",
    "path_lengths",
    "pooled_states",
    "probe_accuracy",
    "refinement",
    "reorder",
    "shapley",
    "stage_ends",
    "subnetworks",
    "subsets",
    "swap_random",
    "tradeoff",
    "variance_by_order",
    "with_exits",
]
