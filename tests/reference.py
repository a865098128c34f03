"""Networks to test with: small ones, and random variables that cost no compilation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxarch
from flaxarch.convert import strict
from flaxarch.convert.rules import slots
from flaxarch.convert.torchvision import RESNET
from flaxarch.layers import Network
from tests.golden import fill


def random_variables(model: Network, channels: int = 3) -> tuple[Any, Any]:
    """Params and batch statistics by the golden files' formula: no scale is one, no mean or bias zero."""
    init, _ = flaxarch.functional(model)
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    params, batch_stats = jax.eval_shape(init, jax.random.key(0), images)
    shapes = {"params": params, "batch_stats": batch_stats}
    tensors = fill.tensors({slot.name: slot.source_shape for slot in slots(shapes, RESNET)})
    tensors = {key: x.astype(np.float32) for key, x in tensors.items()}
    filled = strict.fill(shapes, tensors, RESNET, what="the formula")
    return filled["params"], filled["batch_stats"]
