import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.config import Config
from train.losses import (
    as_targets,
    binary_cross_entropy_sum,
    correct_sum,
    cross_entropy_sum,
    distillation_sum,
    make_loss,
)

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(0, 2, (6, 5)), jnp.float32)
LABELS = jnp.array([0, 4, 2, 2, 1, 3])
ALL = jnp.ones(6)
MIXED = 0.7 * as_targets(LABELS, 5) + 0.3 * as_targets(LABELS[::-1], 5)


@pytest.mark.parametrize("loss", [cross_entropy_sum, binary_cross_entropy_sum])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_one_hot_targets_are_labels_and_mixed_ones_mix_the_losses(loss, label_smoothing: float):
    def value(labels: jax.Array) -> float:
        return float(loss(LOGITS, labels, ALL, label_smoothing))

    assert value(as_targets(LABELS, 5)) == pytest.approx(value(LABELS))
    # Both losses are linear in the target.
    assert value(MIXED) == pytest.approx(0.7 * value(LABELS) + 0.3 * value(LABELS[::-1]), rel=1e-5)


def test_binary_cross_entropy_is_the_mean_over_classes():
    probs = 1 / (1 + np.exp(-np.asarray(LOGITS, np.float64)))
    targets = np.asarray(MIXED, np.float64)
    expected = -(targets * np.log(probs) + (1 - targets) * np.log(1 - probs)).mean(axis=1).sum()
    assert float(binary_cross_entropy_sum(LOGITS, MIXED, ALL)) == pytest.approx(expected, rel=1e-5)


def test_above_the_threshold_both_labels_of_a_mixed_image_are_wanted_in_full():
    both = jnp.maximum(as_targets(LABELS, 5), as_targets(LABELS[::-1], 5))
    found = binary_cross_entropy_sum(LOGITS, MIXED, ALL, label_smoothing=0.1, threshold=0.2)
    assert float(found) == pytest.approx(float(binary_cross_entropy_sum(LOGITS, both, ALL)))
    # Smoothing comes first, as in timm: 0.3 becomes 0.29.
    main = binary_cross_entropy_sum(LOGITS, MIXED, ALL, label_smoothing=0.1, threshold=0.295)
    hard = jnp.where(as_targets(LABELS, 5) + as_targets(LABELS[::-1], 5) == 2, 1.0, as_targets(LABELS, 5))
    assert float(main) == pytest.approx(float(binary_cross_entropy_sum(LOGITS, hard, ALL)))


def test_masked_examples_count_for_nothing_in_any_loss():
    mask = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    kept = jnp.array([0, 1, 3])
    for loss in (cross_entropy_sum, binary_cross_entropy_sum):
        expected = loss(LOGITS[kept], LABELS[kept], jnp.ones(3))
        assert float(loss(LOGITS, LABELS, mask)) == pytest.approx(float(expected), rel=1e-6)
    teacher = jnp.sin(LOGITS)
    expected = distillation_sum(LOGITS[kept], teacher[kept], jnp.ones(3), 2.0)
    assert float(distillation_sum(LOGITS, teacher, mask, 2.0)) == pytest.approx(float(expected), rel=1e-6)


def test_nothing_is_left_to_learn_from_an_equal_teacher():
    assert float(distillation_sum(LOGITS, LOGITS + 3.0, ALL, 4.0)) == pytest.approx(0, abs=1e-5)
    gradient = jax.grad(distillation_sum)(LOGITS, LOGITS, ALL, 4.0)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_at_high_temperature_distillation_matches_logits():
    # Hinton et al. 2015, Sec. 2.1: the gradient tends to (z - v) / N for logits of zero mean.
    teacher = jnp.asarray(RNG.normal(0, 1, (6, 5)), jnp.float32)
    z, v = (x - x.mean(axis=1, keepdims=True) for x in (LOGITS, teacher))
    gradient = jax.grad(distillation_sum)(z, v, ALL, 300.0)
    np.testing.assert_allclose(gradient, (z - v) / 5, atol=0.02)


def test_larger_part_of_a_mixed_label_is_the_one_that_counts():
    logits = 10 * as_targets(LABELS, 5)
    assert float(correct_sum(logits, MIXED, ALL)) == 6
    assert float(correct_sum(logits, MIXED[::-1], ALL)) == float((LABELS[::-1] == LABELS).sum())


def test_configuration_chooses_the_loss():
    plain = make_loss(Config(label_smoothing=0.1))
    assert plain(LOGITS, LABELS, ALL) == cross_entropy_sum(LOGITS, LABELS, ALL, 0.1)
    binary = make_loss(Config(loss="bce", label_smoothing=0.1, bce_threshold=0.2))
    assert binary(LOGITS, MIXED, ALL) == binary_cross_entropy_sum(LOGITS, MIXED, ALL, 0.1, 0.2)
