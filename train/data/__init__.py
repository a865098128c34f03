"""Data on its way to a training step: files -> sources of examples -> batches."""

from train.data.catalog import DATASETS, fitted, open_dataset
from train.data.pipeline import Batch, eval_batches, train_batches
from train.data.sampling import Sampling
from train.data.sequence import from_sequence
from train.data.sources import ArraySource, DataError, Dataset, Source
from train.data.split import divide

__all__ = [
    "DATASETS",
    "ArraySource",
    "Batch",
    "DataError",
    "Dataset",
    "Sampling",
    "Source",
    "divide",
    "eval_batches",
    "fitted",
    "from_sequence",
    "open_dataset",
    "train_batches",
]
