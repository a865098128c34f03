"""What is compared of a network, whichever library runs it; names and axes are the source's."""

from typing import NamedTuple

import numpy as np


class Evaluation(NamedTuple):
    """One forward pass in evaluation."""

    logits: np.ndarray  # (N, num_classes), or maps (N, H, W, num_classes)
    stages: dict[str, np.ndarray]  # activations after each stage, (N, C, H, W)


class Training(NamedTuple):
    """One forward and backward pass in training mode, of the mean cross-entropy."""

    loss: float
    gradients: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]  # batch norm's running means and variances after the pass
