"""Checkpoints: readers that execute nothing, a table of rules per source, one strict loader, writing back."""

from flaxarch.convert.files import Checkpoint, read_checkpoint
from flaxarch.convert.unpickle import CheckpointError
from flaxarch.convert.weights import load, save, to_torch

__all__ = ["Checkpoint", "CheckpointError", "load", "read_checkpoint", "save", "to_torch"]
