"""Our networks equal torchvision's, timm's and, for CIFAR, torch modules after the papers: run side by side.

Other sizes and more networks than in the golden files, and all gradients in full. The largest are slow.
"""

import jax
import pytest

from tests.models.parity import live_errors

for package in ("torch", "torchvision", "timm"):
    pytest.importorskip(package)

SMALL = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "plain18",
    "resnet50, output stride 8",
    "resnet50, output stride 16",
    "resnet18d",
    "resnet50d",
    "resnet20",
    "resnet20_b",
    "plain20",
    "wrn_16_4",
    "resnext29_8x64d",
)
LARGE = (
    "resnet101",
    "resnet152",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet101_2",
    "resnet110",
    "resnet110_sd",
    "wrn_28_10",
)


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_logits_gradients_and_statistics_equal_torch(name: str):
    with jax.enable_x64(True):
        logits, training = live_errors(name)
    assert logits < 1e-9
    assert max(training) < 1e-8, training
