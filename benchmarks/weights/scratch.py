"""What `write` leaves in a folder for `read` and `back`: files, images, logits and a description."""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.weights.pairs import Pair
from tests.golden import fill

OWN_NAMES, DEFAULT_NAMES = "own_names.pth", "default_names.pth"  # what `read` exports


class Written(NamedTuple):
    """One file of a network, and which of its logits a reader should get."""

    path: str
    tensors: str = "float32"  # or "bfloat16", "float16": what the weights were rounded to


def arguments(description: str | None) -> argparse.Namespace:
    """Of a command on networks: `directory` of their files, and `names`, which may be empty."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    return parser.parse_args()


def folder_of(directory: Path, pair: Pair) -> Path:
    """Where a pair's files are."""
    return directory / "".join(x if x.isalnum() or x in "_-." else "_" for x in pair.name)


def images_of(pair: Pair) -> np.ndarray:
    """A batch (N, H, W, C), of the golden files' formula."""
    return fill.images(*pair.size, pair.case.channels)


def values(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A checkpoint in float32, of the golden files' formula: no scale is one, no mean or bias zero."""
    tensors = fill.tensors(shapes)
    return {key: x if x.dtype == np.int64 else x.astype(np.float32) for key, x in tensors.items()}


def describe(folder: Path, versions: str, files: dict[str, Written], logits: dict[str, np.ndarray]) -> None:
    """Write the images' logits, in float64, for each rounding of the weights, and which file has which."""
    np.savez(folder / "logits.npz", **logits)  # pyright: ignore[reportArgumentType]
    about = {"versions": versions, "files": {key: file._asdict() for key, file in files.items()}}
    (folder / "about.json").write_text(json.dumps(about))


def described(folder: Path) -> tuple[str, dict[str, Written], dict[str, Any]]:
    """What `describe` wrote: versions, files, logits."""
    about = json.loads((folder / "about.json").read_text())
    files = {key: Written(**file) for key, file in about["files"].items()}
    with np.load(folder / "logits.npz") as logits:
        return about["versions"], files, dict(logits)
