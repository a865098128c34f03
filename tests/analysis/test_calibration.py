"""Expected calibration error: what it is of predictions whose calibration is known."""

import numpy as np
import pytest

from flaxarch.analysis import expected_calibration_error, reliability

RNG = np.random.default_rng(0)


def drawn(num_images: int, num_classes: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are drawn from their softmax: calibrated by construction."""
    logits = RNG.normal(0, scale, (num_images, num_classes))
    gumbel = RNG.gumbel(size=logits.shape)
    return logits, (logits + gumbel).argmax(axis=1)


def test_labels_drawn_from_the_softmax_are_calibrated():
    logits, labels = drawn(200_000, 10)
    assert expected_calibration_error(logits, labels) < 0.005


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_sharper_or_flatter_logits_are_miscalibrated(factor: float):
    logits, labels = drawn(20_000, 10)
    assert expected_calibration_error(factor * logits, labels) > 0.1
    found = reliability(factor * logits, labels)
    is_filled = found.share > 0.01
    too_sure = (found.confidence > found.accuracy)[is_filled]
    assert too_sure.mean() > 0.8 if factor > 1 else too_sure.mean() < 0.2


def test_one_bin_is_mean_confidence_less_accuracy():
    logits, labels = drawn(1000, 5)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gap = abs(probs.max(axis=1).mean() - (logits.argmax(axis=1) == labels).mean())
    assert expected_calibration_error(logits, labels, bins=1) == pytest.approx(gap)


def test_bins_add_up_to_all_images_and_edges_belong_below():
    logits = np.log([[1.0, 1.0], [7.0, 3.0], [1e30, 1.0]])  # confidence 1/2 and 1, edges of 4 bins, and 0.7
    found = reliability(logits, np.array([0, 0, 1]), bins=4)
    np.testing.assert_allclose(found.share, [0, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(found.confidence, [np.nan, 0.5, 0.7, 1])
    np.testing.assert_allclose(found.accuracy, [np.nan, 1, 1, 0])
    assert expected_calibration_error(logits, np.array([0, 0, 1]), bins=4) == pytest.approx(1.8 / 3)


def test_constant_on_all_logits_changes_nothing():
    logits, labels = drawn(500, 10)
    assert expected_calibration_error(logits + 1e4, labels) == pytest.approx(
        expected_calibration_error(logits, labels)
    )


@pytest.mark.parametrize(
    ("logits", "labels", "bins", "message"),
    [
        (np.zeros(3), np.zeros(3, int), 15, r"logits are \(N, num_classes\)"),
        (np.zeros((3, 2)), np.zeros(2, int), 15, r"not \(3, 2\) and \(2,\)"),
        (np.zeros((3, 2)), np.zeros(3, int), 0, "1 bin or more, not 0"),
        (np.full((3, 2), np.nan), np.zeros(3, int), 15, "not finite"),
    ],
)
def test_bad_input_is_a_sentence(logits: np.ndarray, labels: np.ndarray, bins: int, message: str):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(logits, labels, bins)
