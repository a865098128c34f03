"""Maps depend on what a network has learned: randomised layers, as Adebayo et al. 2018 have them.

https://arxiv.org/abs/1810.03292, Sec. 3: layers get random weights from the top downwards, and the maps' rank
correlation with the originals is to fall.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy.stats import spearmanr

from flaxarch import explain
from tests.explain.nets import random_variables
from tests.train.tiny_net import TinyNet

TRAINED_ON = 1500


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 images of 8x8, and their labels."""
    images, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8, 1) / 16 - 0.3).astype(np.float32), labels


class Pooled(nn.Module):
    """Two convolutions, a mean, a dense layer."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        x = nn.relu(nn.Conv(32, (3, 3), name="conv1")(images))
        x = nn.relu(nn.Conv(64, (3, 3), name="conv2")(x))
        return nn.Dense(self.num_classes, name="fc")(x.mean(axis=(1, 2)))


def randomised(variables: Any, layers: Sequence[str], seed: int) -> Any:
    """With weights of these layers drawn anew, of the deviation that they have."""
    rng = np.random.default_rng(seed)
    params = dict(variables["params"])
    for name in layers:
        params[name] = jax.tree.map(
            lambda x: (np.std(x) * rng.normal(size=x.shape)).astype(np.float32), params[name]
        )
    return variables | {"params": params}


def similarity(
    method: Callable[..., jax.Array],
    model: Any,
    variables: Any,
    layers: Sequence[str],
    images: Any,
    labels: Any,
) -> float:
    """Mean rank correlation of the images' maps with those of three networks with randomised layers."""
    first, found = np.asarray(method(model, variables, images, labels)), []
    for seed in range(3):
        second = np.asarray(method(model, randomised(variables, layers, seed), images, labels))
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
        assert len(pairs) > len(images) / 4
        found += [spearmanr(a.ravel(), b.ravel())[0] for a, b in pairs]
    return float(np.mean(found))


def test_maps_of_a_network_with_a_random_head_are_others():
    images, labels = digits()
    model = Pooled()
    variables = random_variables(model, (8, 8, 1))
    features = np.asarray(explain.feature_map(model, variables, images)).mean(
        (1, 2)
    )  # random ones are enough
    features, targets = features[:TRAINED_ON], np.eye(10)[labels[:TRAINED_ON]]
    centre, gram = features.mean(0), np.cov(features.T) + 1e-6 * np.eye(64)
    kernel = np.linalg.solve(gram, (features - centre).T @ (targets - 0.1) / TRAINED_ON)
    variables["params"]["fc"] = {
        "kernel": kernel.astype(np.float32),
        "bias": (0.1 - centre @ kernel).astype(np.float32),
    }
    held_out = np.s_[TRAINED_ON : TRAINED_ON + 48]
    images, labels = images[held_out], labels[held_out]
    assert (explain.logits(model, variables, images).argmax(-1) == labels).mean() > 0.8
    for method in (explain.grad_cam, explain.gradient):
        assert similarity(method, model, variables, [], images, labels) == pytest.approx(1)
        assert abs(similarity(method, model, variables, ["fc"], images, labels)) < 0.3


@pytest.mark.slow
def test_guided_backprop_shows_less_of_what_a_network_has_learned_than_its_gradient():
    images, labels = digits()
    model, tx = TinyNet(), optax.adam(3e-2)
    variables = jax.jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(0))
    params, batch_stats = variables["params"], variables["batch_stats"]

    @jax.jit
    def step(params: Any, batch_stats: Any, opt_state: Any, images: Any, labels: Any) -> Any:
        def loss(params: Any) -> Any:
            given = {"params": params, "batch_stats": batch_stats}
            logits, updated = model.apply(given, images, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)  # pyright: ignore
            return losses.mean(), updated["batch_stats"]

        gradients, batch_stats = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    opt_state, rng = tx.init(params), np.random.default_rng(0)
    for _ in range(300):
        batch = rng.permutation(TRAINED_ON)[:128]
        params, batch_stats, opt_state = step(params, batch_stats, opt_state, images[batch], labels[batch])
    variables = {"params": params, "batch_stats": batch_stats}
    held_out = np.s_[TRAINED_ON : TRAINED_ON + 64]
    images, labels = images[held_out], labels[held_out]

    for layers in (["fc"], ["fc", "conv2"]):
        for method in (explain.grad_cam, explain.gradient):
            assert abs(similarity(method, model, variables, layers, images, labels)) < 0.3
        assert similarity(explain.guided_backprop, model, variables, layers, images, labels) > 0.4
