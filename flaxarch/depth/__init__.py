"""Networks seen along their depth: blocks deleted, reordered and told apart, their paths, and early exits."""

from flaxarch.depth.adaptive import Solved, solve_by
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
from flaxarch.depth.conv_norms import circular_norm, circular_singular_values, measured_norm, norm_bound
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
from flaxarch.depth.flow import Flow, apply_flows, flows
from flaxarch.depth.gates import apply_gated, delete_each, keep_random, subsets
from flaxarch.depth.jacobians import Spectra, spectra, step_of
from flaxarch.depth.lipschitz_bounds import lipschitz
from flaxarch.depth.lipschitz_rules import Lipschitz
from flaxarch.depth.multilevel import coarsen, refine, resample
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
from flaxarch.depth.regions import METHODS, amplification, is_stable
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
from flaxarch.depth.stability import Certificate, certify
from flaxarch.depth.stability_plot import plot_certificate
from flaxarch.depth.trunk import Block, blocks, deletable
from flaxarch.ode.bases import (
    Basis,
    b_spline,
    fourier,
    interpolate,
    legendre,
    piecewise_constant,
    piecewise_linear,
    project,
    theta_at,
)
from flaxarch.ode.multistep import Leapfrog, LinearMultistep, Momentum, Multistep, TwoStepMidpoint
from flaxarch.ode.reversible import reversible_scan
from flaxarch.ode.solvers import EULER, HEUN, MIDPOINT, RK4, Solver, solve

__all__ = [
    "EULER",
    "HEUN",
    "MAX_BLOCKS",
    "METHODS",
    "MIDPOINT",
    "RK4",
    "Basis",
    "Block",
    "Certificate",
    "Chain",
    "Connection",
    "Decay",
    "Flow",
    "Leapfrog",
    "LinearMultistep",
    "Lipschitz",
    "Momentum",
    "Multistep",
    "Prediction",
    "Probe",
    "Refinement",
    "Scores",
    "Solved",
    "Solver",
    "Spectra",
    "Tradeoff",
    "TwoStepMidpoint",
    "WithExits",
    "amplification",
    "anytime_predictor",
    "apply_connected",
    "apply_flows",
    "apply_gated",
    "as_matrices",
    "b_spline",
    "blocks",
    "certify",
    "choose_threshold",
    "circular_norm",
    "circular_singular_values",
    "coarsen",
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
    "flows",
    "fourier",
    "gradients_along",
    "groups",
    "interactions",
    "interpolate",
    "is_stable",
    "keep_random",
    "kendall_tau",
    "leave",
    "legendre",
    "lipschitz",
    "measured_norm",
    "norm_bound",
    "num_effective_blocks",
    "path_gradients",
    "path_lengths",
    "piecewise_constant",
    "piecewise_linear",
    "plot_certificate",
    "pooled_states",
    "probe_accuracy",
    "project",
    "refine",
    "refinement",
    "reorder",
    "resample",
    "reversible_scan",
    "shapley",
    "solve",
    "solve_by",
    "spectra",
    "stage_ends",
    "step_of",
    "subnetworks",
    "subsets",
    "swap_random",
    "theta_at",
    "tradeoff",
    "variance_by_order",
    "with_exits",
]
