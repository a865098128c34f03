"""flaxarch: deep convolutional networks in JAX and Flax, numerically equal to the originals."""

from flaxarch.analysis import cost
from flaxarch.convert import load, save, to_torch
from flaxarch.functional import features, functional
from flaxarch.preprocess import preprocess
from flaxarch.registry import create, list_models, published
from flaxarch.transfer import estimate_batch_stats, freeze_batch_norm, label_params

__all__ = [
    "cost",
    "create",
    "estimate_batch_stats",
    "features",
    "freeze_batch_norm",
    "functional",
    "label_params",
    "list_models",
    "load",
    "preprocess",
    "published",
    "save",
    "to_torch",
]
