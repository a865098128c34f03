"""The gradient of a trained residual network by length of path: of single paths, and of all together."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims.statements._subject import Subject
from benchmarks.depth import norms_per_image
from flaxarch.depth import blocks, gradients_along, keep_random, path_gradients
from flaxarch.depth.scores import cross_entropy


class Lengths(NamedTuple):
    """Norms at the image, over that of the image's whole gradient, so that no image outweighs the others."""

    single: np.ndarray  # (n + 1,): mean norm of one path's gradient, by length
    exact: np.ndarray  # (n + 1,): norm of the sum over all paths of a length, mean over images
    error: float  # norm of what the sum over lengths lacks to autodiff's gradient

    @property
    def exact_shares(self) -> np.ndarray:
        """(n + 1,): of the norms of sums."""
        return self.exact / self.exact.sum()


def lengths(net: Subject, key: jax.Array, num_paths: int) -> Lengths:
    """By `num_paths` random paths of each length, as the paper draws them, and exactly."""

    def loss(images: jax.Array) -> jax.Array:
        logits: Any = net.model.apply(net.variables, images, train=False)
        return cross_entropy(logits, net.labels).sum()

    whole = jax.jit(jax.grad(loss))(net.images)
    scale = norms_per_image(whole)
    sums = path_gradients(*net)
    n = len(blocks(net.model, net.images.shape[1:]))
    single = []
    for k, key_k in enumerate(jax.random.split(key, n + 1)):
        paths = keep_random(key_k, n, k, num_paths)
        single.append(float((norms_per_image(gradients_along(*net, paths)) / scale[None]).mean()))
    error = jnp.linalg.norm(sums.sum(axis=0) - whole) / jnp.linalg.norm(whole)
    return Lengths(np.array(single), (norms_per_image(sums) / scale[None]).mean(axis=1), float(error))
