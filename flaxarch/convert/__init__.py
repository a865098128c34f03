"""Checkpoints: readers that execute nothing, a table of rules per source, one strict loader, writing back."""

from flaxarch.convert.files import Checkpoint, read_checkpoint
from flaxarch.convert.recognise import Recognised, recognise
from flaxarch.convert.torch_writer import write_torch
from flaxarch.convert.unpickle import CheckpointError
from flaxarch.convert.weights import load, save, to_torch

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Recognised",
    "load",
    "read_checkpoint",
    "recognise",
    "save",
    "to_torch",
    "write_torch",
]
