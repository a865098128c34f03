"""Networks under other libraries' modules: the same numbers, and statistics that move."""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import flaxarch
from flaxarch.models.cifar_resnet import CifarResNet

MODEL = CifarResNet((1, 1), widths=(4, 8), num_classes=3)
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)


def test_nnx_module_of_a_network_gives_its_logits_and_moves_its_statistics():
    network: Any = nnx.bridge.lazy_init(nnx.bridge.ToNNX(MODEL, rngs=nnx.Rngs(0)), IMAGES, train=False)
    of_kind = {"params": nnx.Param, "batch_stats": nnx.BatchStat}

    def variables() -> dict[str, Any]:
        found = {name: nnx.to_pure_dict(nnx.state(network, kind)) for name, kind in of_kind.items()}
        return jax.tree.map(jnp.asarray, found)

    before = variables()
    init, apply = flaxarch.functional(MODEL)
    chex.assert_trees_all_equal_shapes(
        (before["params"], before["batch_stats"]), init(jax.random.key(0), IMAGES)
    )
    expected, _ = apply(before["params"], before["batch_stats"], IMAGES, train=False)
    np.testing.assert_allclose(network(IMAGES, train=False), expected, rtol=1e-5, atol=1e-6)
    expected, moved = apply(before["params"], before["batch_stats"], IMAGES, train=True)
    found = network(IMAGES, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    after = variables()
    chex.assert_trees_all_close(after["batch_stats"], moved, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(after["params"], before["params"])


def test_network_as_a_callable_tree_is_differentiated_by_its_leaves():
    init, apply = flaxarch.functional(MODEL)
    params, batch_stats = init(jax.random.key(0), IMAGES)

    def logits_of(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        return apply(params, batch_stats, images, train=False)[0]

    network = jax.tree_util.Partial(logits_of, params, batch_stats)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda network, images: (network(images) ** 2).sum()))
    found, _ = gradient(network, IMAGES).args
    expected = jax.grad(lambda params: (logits_of(params, batch_stats, IMAGES) ** 2).sum())(params)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)
