"""The ResNets of flaxmodels."""

import flaxmodels  # pyright: ignore[reportMissingImports]

from benchmarks.speed.cases import NETWORKS, Case
from benchmarks.speed.contenders import Prepared
from benchmarks.speed.contenders.on_jax import images_and_labels, linen_steps


def prepare(case: Case, path: str) -> Prepared:
    """Without weights."""
    del path
    network = getattr(flaxmodels, NETWORKS[case.network].flaxmodels or "")
    model = network(output="logits", pretrained=None, dtype=case.dtype)
    images, labels = images_and_labels(case, (224, 224, 3), 1000)
    return linen_steps(model, case, images, labels)
