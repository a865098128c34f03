"""Parts of a source: a share to train on, and a share of the training examples to validate on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from train.data.sources import DataError, Dataset, DerivedSource

VALIDATION, SUBSET = 2, 3  # beside the seed; 0 and 1 are the pipeline's


@dataclass(frozen=True, eq=False)
class SubsetSource(DerivedSource):
    """Examples `indices` of another source."""

    indices: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Labels of this part, int32 (n,)."""
        return self.source.labels[self.indices]

    def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Examples `indices` (n,) of this part."""
        return self.source.load(self.indices[indices])

    def load_whole(self, indices: np.ndarray) -> tuple[Iterable[np.ndarray], np.ndarray]:
        """See `Source`."""
        return self.source.load_whole(self.indices[indices])


def divide(dataset: Dataset, *, validation_share: float, train_share: float, seed: int) -> Dataset:
    """The data set with `validation`, and with less to train on; the test examples are left as they are.

    Both shares are of each class alike, and fixed by the seed. `train_share` is of what validation leaves
    over, so that runs with different ones are validated on the same images.

    Raises:
        DataError: a share comes to no example, or nothing is left to train on.
    """
    whole = dataset.train
    rest, validation = np.arange(len(whole)), dataset.validation
    if validation_share:
        chosen = stratified(whole.labels, validation_share, np.random.default_rng((seed, VALIDATION)))
        _check("validation_share", validation_share, len(whole), len(chosen))
        rest = np.setdiff1d(rest, chosen)
        validation = SubsetSource(whole, chosen)
    if train_share != 1:
        rng = np.random.default_rng((seed, SUBSET))
        chosen = rest[stratified(whole.labels[rest], train_share, rng)]
        _check("train_share", train_share, len(rest), len(chosen))
        rest = chosen
    train = whole if len(rest) == len(whole) else SubsetSource(whole, rest)
    return dataset._replace(train=train, validation=validation)


def stratified(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of round(share * N) of N examples: of each class its share, rounded up or down."""
    mixed = rng.permutation(len(labels))
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    count = round(share * len(labels))
    # Every (1 / share)-th of the examples in order of their classes, and within a class at random.
    return np.sort(by_class[((np.arange(count) + 0.5) * len(labels) / max(1, count)).astype(np.int64)])


def _check(name: str, share: float, num_examples: int, num_chosen: int) -> None:
    if not 0 < num_chosen < num_examples:
        raise DataError(
            f"{name} {share} of {num_examples} training images is {num_chosen} of them, "
            "which leaves nothing on one side"
        )
