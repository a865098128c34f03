"""What a network costs and what it sees, found without running it; and signals on their way through it."""

from flaxarch.analysis.cost import Cost, LayerCost, cost
from flaxarch.analysis.propagation import (
    PLAIN_BATCH_NORM_SLOPE,
    Propagation,
    block_gradients,
    block_tangents,
    branch_share,
    log_slope,
    plain_slope,
    residual_variance,
    signal_propagation,
)
from flaxarch.analysis.shattering import (
    autocorrelation,
    gradient_correlation,
    gradient_on_line,
    plain_correlation,
    residual_correlation,
)

__all__ = [
    "PLAIN_BATCH_NORM_SLOPE",
    "Cost",
    "LayerCost",
    "Propagation",
    "autocorrelation",
    "block_gradients",
    "block_tangents",
    "branch_share",
    "cost",
    "gradient_correlation",
    "gradient_on_line",
    "log_slope",
    "plain_correlation",
    "plain_slope",
    "residual_correlation",
    "residual_variance",
    "signal_propagation",
]
