"""Adversarial images: within their ball and range, as bad as they can be where that is known."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxarch.analysis.attack import pgd
from flaxarch.depth.scores import cross_entropy

SHAPE = (4, 4, 3)
WEIGHTS = np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32)
IMAGES = jnp.asarray(np.random.default_rng(1).uniform(size=(6, *SHAPE)).astype(np.float32))
LABELS = jnp.array([0, 1, 2, 3, 4, 0])


def linear(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1) @ WEIGHTS


def curved(x: jax.Array) -> jax.Array:
    return jnp.tanh(3 * x.reshape(len(x), -1) - 1) @ WEIGHTS


attack = jax.jit(partial(pgd, curved), static_argnames=("norm", "num_steps"))


def lengths(change: Any) -> np.ndarray:
    return np.linalg.norm(np.asarray(change).reshape(len(change), -1), axis=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacked_images_stay_in_ball_and_range_and_raise_the_loss(norm: Any):
    radius = {"linf": 0.1, "l2": 0.5}[norm]
    found = attack(IMAGES, LABELS, jax.random.key(0), radius=radius, norm=norm)
    change = np.asarray(found - IMAGES)
    size = abs(change).reshape(6, -1).max(axis=1) if norm == "linf" else lengths(change)
    assert (size <= radius * (1 + 1e-5)).all()
    assert found.min() >= 0
    assert found.max() <= 1
    before, after = (cross_entropy(curved(x), LABELS) for x in (IMAGES, found))
    assert (after > before).all()
    rng = np.random.default_rng(2)
    for _ in range(20):
        other = rng.choice([-1.0, 1.0], change.shape).astype(np.float32)
        other *= radius / (1 if norm == "linf" else lengths(other).reshape(6, 1, 1, 1))
        assert (cross_entropy(curved(jnp.clip(IMAGES + other, 0, 1)), LABELS) < after).all()


def test_attack_on_two_classes_of_a_linear_network_is_the_known_worst():
    """By radius times the sign, or the direction, of the difference of the classes' weights."""

    def two(x: jax.Array) -> jax.Array:
        return linear(x)[:, :2]

    images, labels = IMAGES[:2], jnp.array([0, 1])
    uphill = (WEIGHTS[:, 1] - WEIGHTS[:, 0]).reshape(SHAPE) * np.array([1, -1]).reshape(2, 1, 1, 1)
    free: Any = {"low": -9.0, "high": 9.0}
    find = jax.jit(
        partial(pgd, two, images, labels, jax.random.key(0), radius=0.2, **free), static_argnames="norm"
    )
    found = find()
    np.testing.assert_allclose(found - images, 0.2 * np.sign(uphill), atol=1e-6)
    found = find(norm="l2", step_size=1.0)
    np.testing.assert_allclose(found - images, 0.2 * uphill / lengths(uphill).reshape(2, 1, 1, 1), atol=1e-6)


def test_no_radius_changes_nothing_and_the_start_is_drawn_by_the_key():
    first, second = jax.random.split(jax.random.key(0))
    for norm in ("linf", "l2"):
        np.testing.assert_allclose(
            attack(IMAGES, LABELS, first, radius=0.0, norm=norm), IMAGES, rtol=0, atol=1e-7
        )
    start = partial(attack, IMAGES, LABELS, radius=0.1, num_steps=1, step_size=0.0)
    assert 0 < abs(start(first) - IMAGES).max() <= 0.1 + 1e-6
    assert np.any(start(first) != start(second))


def test_unknown_norm_is_told():
    other: Any = "l1"
    with pytest.raises(ValueError, match="'l1' is none of"):
        pgd(linear, IMAGES, LABELS, jax.random.key(0), radius=0.1, norm=other)
