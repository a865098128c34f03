"""What an augmentation is, and where its random numbers come from.

What happens to an example depends on the generator and on the example's position in the *global* batch, so
that a process which holds a slice of the batch draws what one process holding all of it would draw.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Draws:
    """Random numbers for the examples `here` of a global batch, and which examples these are.

    Each method draws for the whole batch and cuts, so that the generator ends at one state everywhere.
    """

    rng: np.random.Generator  # at the same state in every process
    batch_size: int  # global
    here: slice
    seed: int = 0  # of the run
    epoch: int = 0
    indices: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # of the examples here
    num_examples: int = 0  # in the source

    def random(self, *shape: int) -> np.ndarray:
        """(n, *shape), uniform from 0 to 1."""
        return self.rng.random((self.batch_size, *shape))[self.here]

    def normal(self, *shape: int) -> np.ndarray:
        """(n, *shape), standard normal."""
        return self.rng.standard_normal((self.batch_size, *shape))[self.here]

    def integers(self, high: int, *shape: int) -> np.ndarray:
        """(n, *shape), from 0 to high - 1."""
        return self.rng.integers(high, size=(self.batch_size, *shape))[self.here]


class Augmentation(Protocol):
    """A random change of images that keeps their shape and type."""

    def __call__(self, images: np.ndarray, draws: Draws) -> np.ndarray:
        """`images` is uint8 (n, H, W, C), the examples `draws.here`, and is left as it was."""
        ...
