"""Data on its way to a training step: files -> sources of examples -> batches."""

from train.data.catalog import DATASETS, open_dataset
from train.data.pipeline import Batch, eval_batches, train_batches
from train.data.sources import ArraySource, DataError, Dataset, Source

__all__ = [
    "DATASETS",
    "ArraySource",
    "Batch",
    "DataError",
    "Dataset",
    "Source",
    "eval_batches",
    "open_dataset",
    "train_batches",
]
