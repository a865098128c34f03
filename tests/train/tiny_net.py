"""A network with batch norm that compiles in a second, in the place of flaxarch's own.

Run as a script it is `python -m train` with that network for every model.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike


class TinyNet(nn.Module):
    """Images (N, H, W, C) -> logits (N, num_classes); one residual block."""

    num_classes: int = 10
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    survival_prob: float = 1.0
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(8, (3, 3), (2, 2), padding=1, use_bias=False, dtype=self.dtype, name="conv1")(images)
        x = nn.BatchNorm(not train, axis_name=self.axis_name, momentum=0.9, epsilon=1e-5, name="bn1")(x)
        x = nn.relu(x)
        y = nn.Conv(8, (3, 3), padding=1, dtype=self.dtype, name="conv2")(x)
        if train and self.survival_prob < 1:
            y = y * jax.random.bernoulli(self.make_rng("gates"), self.survival_prob)
        x = nn.relu(x + y).mean(axis=(1, 2))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="fc")(x)


def create(name: str, num_classes: int | None = None, dtype: DTypeLike = jnp.float32) -> TinyNet:
    """In the place of flaxarch.create."""
    del name
    return TinyNet(num_classes or 10, dtype)


def random_batch(seed: int, batch_size: int = 32) -> dict[str, Any]:
    """Digit-sized noise."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (batch_size, 8, 8, 1), dtype=np.uint8),
        "label": rng.integers(0, 10, batch_size).astype(np.int32),
        "mask": np.ones(batch_size, np.float32),
    }


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Within this no file can grow beyond that size, which a write meets as it meets a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


if __name__ == "__main__":
    from train.__main__ import main

    # Images in files are read when they are asked for, so that they can vanish.
    with mock.patch("flaxarch.create", create), mock.patch("train.data.folder.IN_MEMORY_BYTES", 0):
        sys.exit(main())
