"""The mutated files, by format and number: the same numbers give the same files."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import h5py
import numpy as np

from benchmarks.fuzz import keras_files, safetensors_files, torch_files
from benchmarks.fuzz.bases import base

SEED = 0
SECRET = -12345.5  # in a file that others lead to: a tensor that holds it was read from outside


class Case(NamedTuple):
    """One mutated file."""

    path: Path
    row: str  # of the sound file
    name: str | None  # that is given to `load`
    mutation: str


def _torch_row(rng: Random) -> str:
    return "resnet20" if rng.random() < 0.1 else "lenet5"


def _keras_row(rng: Random) -> str:
    return "resnet8_keras"


Make = Callable[[Random, str, str, str], tuple[str, dict[str, bytes]]]


def _file(file_name: str, make: Callable[..., tuple[str, bytes]], *places: str) -> Make:
    """A maker of one file; `places` are those of "canary" and "secret" that it takes."""

    def made(rng: Random, row: str, canary: str, secret: str) -> tuple[str, dict[str, bytes]]:
        given = {"canary": canary, "secret": secret}
        mutation, content = make(rng, base(row), *(given[place] for place in places))
        return mutation, {file_name: content}

    return made


def _sharded(rng: Random, row: str, canary: str, secret: str) -> tuple[str, dict[str, bytes]]:
    return safetensors_files.sharded(rng, base(row))


FORMATS: dict[str, tuple[Callable[[Random], str], Make]] = {
    ".pth": (_torch_row, _file("model.pth", torch_files.zip_format, "canary")),
    ".pth.tar, legacy": (_torch_row, _file("model.pth.tar", torch_files.legacy_format, "canary")),
    ".safetensors": (_torch_row, _file("model.safetensors", safetensors_files.single)),
    ".safetensors in parts": (_torch_row, _sharded),
    ".h5, Keras 2": (_keras_row, _file("model.h5", keras_files.keras2_file, "secret")),
    ".h5, Keras 1": (_keras_row, _file("model.h5", keras_files.keras1_file, "secret")),
    ".weights.h5, Keras 3": (_keras_row, _file("model.weights.h5", keras_files.keras3_file, "secret")),
    ".keras": (_keras_row, _file("model.keras", keras_files.archive, "canary", "secret")),
}


def write(fmt: str, number: int, folder: Path) -> Case:
    """Write a case's files into a folder of their own, and beside it the file that must not be read."""
    rng = Random(f"{SEED} {fmt} {number}")
    secret = folder.parent / "secret.h5"
    if not secret.exists():
        with h5py.File(secret, "w") as file:
            file["x"] = np.full((3, 3, 3, 16), SECRET, np.float32)
    row_of, make = FORMATS[fmt]
    row = row_of(rng)
    mutation, files = make(rng, row, str(folder / "canary"), str(secret))
    folder.mkdir()
    for file_name, content in files.items():
        (folder / file_name).write_bytes(content)
    return Case(folder / next(iter(files)), row, row if number % 2 else None, mutation)
