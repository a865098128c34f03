"""Our networks equal torchvision's, timm's and torch modules after the papers, run side by side.

All cases, golden or not, with all gradients in full. Keras's run by `python -m tests.models.parity --live`.
"""

import jax
import pytest

from tests.golden.families.every import CASES
from tests.models.parity import live_errors

for package in ("torch", "torchvision", "timm"):
    pytest.importorskip(package)

TORCH = [name for name, case in CASES.items() if case.library == "torch_library"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCH)
def test_logits_gradients_and_statistics_equal_torch(name: str):
    pytest.importorskip(CASES[name].builder.partition(".")[0])  # pytorchcv may be absent
    with jax.enable_x64(True):
        logits, training = live_errors(name)
    assert logits < 1e-9
    assert max(training) < 1e-8, training
