"""Which examples a batch holds: a pure function of the labels, the seed and the batch's number."""

from typing import NamedTuple

import numpy as np

ORDER = 0  # beside the seed, so that these draws differ from those of the augmentation


class Sampling(NamedTuple):
    """How the examples of an epoch are chosen."""

    balanced: bool = False  # every class as often as every other one; examples are drawn with replacement
    # Each batch holds so many copies of each of its images, which differ by their augmentation:
    # Hoffer et al. 2020, https://arxiv.org/abs/1901.09335; Berman et al. 2019, https://arxiv.org/abs/1902.05509.
    # An epoch has as many steps as without, as in theirs and timm's, and so meets fewer images.
    repeats: int = 1


class Sampler:
    """Batches of indices. Each epoch has an order of its own, and leaves out what does not fill a batch."""

    def __init__(self, labels: np.ndarray | int, batch_size: int, seed: int, sampling: Sampling) -> None:
        """`labels` are int32 (N,); where classes do not count, their number is enough."""
        self._num_examples = labels if isinstance(labels, int) else len(labels)
        self._batch_size, self._seed, self._sampling = batch_size, seed, sampling
        self._by_class = np.zeros(0, np.int64)
        self._starts = self._counts = self._by_class
        if sampling.balanced:
            assert not isinstance(labels, int)
            self._by_class = np.argsort(labels, kind="stable")
            _, self._starts, self._counts = np.unique(
                labels[self._by_class], return_index=True, return_counts=True
            )
        self._orders: dict[int, np.ndarray] = {}

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that batch `step` belongs to."""
        return step // (self._num_examples // self._batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Indices (batch_size,) of the examples of batch `step`.

        Copies of one image lie batch_size / repeats apart, so that they fall to different devices.
        """
        step_in_epoch = step % (self._num_examples // self._batch_size)
        distinct = self._batch_size // self._sampling.repeats
        first = step_in_epoch * distinct
        chosen = self._order(self.epoch(step))[first : first + distinct]
        return np.tile(chosen, self._sampling.repeats)

    def _order(self, epoch: int) -> np.ndarray:
        order = self._orders.get(epoch)
        if order is None:
            order = self._draw(epoch)
            kept = sorted(self._orders.items())[-3:]  # prefetching may run ahead into the next epoch
            self._orders = {**dict(kept), epoch: order}  # replaced in one go: several threads are here
        return order

    def _draw(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self._seed, ORDER, epoch))
        if not self._sampling.balanced:
            return rng.permutation(self._num_examples)
        classes = rng.integers(len(self._counts), size=self._num_examples)
        within = (rng.random(self._num_examples) * self._counts[classes]).astype(np.int64)
        return self._by_class[self._starts[classes] + within]
