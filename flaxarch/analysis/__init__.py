"""What a network costs and sees, found without running it; signals on their way; calibration; attacks."""

from flaxarch.analysis.attack import pgd
from flaxarch.analysis.calibration import Reliability, expected_calibration_error, reliability
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
    "Reliability",
    "autocorrelation",
    "block_gradients",
    "block_tangents",
    "branch_share",
    "cost",
    "expected_calibration_error",
    "gradient_correlation",
    "gradient_on_line",
    "log_slope",
    "pgd",
    "plain_correlation",
    "plain_slope",
    "reliability",
    "residual_correlation",
    "residual_variance",
    "signal_propagation",
]
