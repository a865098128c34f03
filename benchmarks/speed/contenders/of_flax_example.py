"""The ResNets of Flax's ImageNet example, from its own file: `--python flax_example=PYTHON,models.py`."""

import importlib.util

import jax.numpy as jnp

from benchmarks.speed.cases import NETWORKS, Case
from benchmarks.speed.contenders import Prepared
from benchmarks.speed.contenders.on_jax import images_and_labels, linen_steps


def prepare(case: Case, path: str) -> Prepared:
    """`path`: the example's `models.py`."""
    spec = importlib.util.spec_from_file_location("flax_imagenet_models", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path}: give the models.py of Flax's ImageNet example")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    model = getattr(models, NETWORKS[case.network].flax_example or "")(
        num_classes=1000, dtype=jnp.dtype(case.dtype)
    )
    images, labels = images_and_labels(case, (224, 224, 3), 1000)
    return linen_steps(model, case, images, labels, axis_name="batch")
