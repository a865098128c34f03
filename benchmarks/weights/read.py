"""Reads the files that the libraries wrote, where none of these is installed, and compares the logits."""

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxarch
from benchmarks.weights import kept, scratch
from benchmarks.weights.pairs import Pair, pairs
from benchmarks.weights.scratch import DEFAULT_NAMES, OWN_NAMES
from flaxarch.convert import CheckpointError, recognise, write_torch
from flaxarch.layers import Network

LIBRARIES = ("torch", "torchvision", "timm", "pytorchcv", "keras", "tensorflow")


def read(pair: Pair, directory: Path) -> dict[str, Any]:
    """What each file of a pair was recognised as, and how far its logits are from the library's."""
    folder = scratch.folder_of(directory, pair)
    versions, files, expected = scratch.described(folder)
    found: dict[str, dict[str, Any]] = {}
    apply, logits = None, {}
    float32 = None
    for format_, file in files.items():
        path = folder / file.path
        rows, (model, variables) = _load(path, pair.row)
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
        if apply is None:
            apply = jax.jit(_apply(model))
        images = scratch.images_of(pair)
        # files of the same weights need no second run, if they are the same bit for bit
        if file.tensors not in logits or not _same(wide, logits[file.tensors][0]):
            logits[file.tensors] = wide, np.asarray(apply(wide, images))
        if file.tensors == "float32" and float32 is None:
            float32 = model, variables
        error = relative_error(logits[file.tensors][1], expected[file.tensors])
        found[format_] = {"recognised": rows, "error": error}
        print(f"{pair.name}, {format_}: {', '.join(rows)} {error:.0e}", flush=True)
    about = {"family": pair.family, "library": pair.library, "row": pair.row, "versions": versions}
    about |= {"images": pair.size, "formats": found}
    if pair.library != "Keras" and float32:
        _export(*float32, recognise(folder / "zip.pth", pair.row).source, folder)
    return about


def _load(path: Path, row: str) -> tuple[list[str], tuple[Network, Any]]:
    """The row that a file is recognised as, or those between which a name has to choose; what it holds."""
    try:
        loaded = flaxarch.load(path)
    except CheckpointError as error:
        words = str(error).partition("fits several rows, ")[2].partition(":")[0]
        return words.split(", ") if words else [], flaxarch.load(path, row)
    model = loaded[0]
    if model != flaxarch.create(row, num_classes=model.num_classes):
        return [recognise(path).name], flaxarch.load(path, row)
    return [row], loaded


def _apply(model: Any) -> Any:
    return lambda variables, images: model.clone(dtype=jnp.float64).apply(variables, images, train=False)


def _same(tree: Any, other: Any) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(tree), jax.tree.leaves(other)))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest logit."""
    if found.shape != expected.shape:
        raise ValueError(f"logits are {found.shape}, and not {expected.shape}")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _export(model: Network, variables: Any, source: str, folder: Path) -> None:
    """Write the variables for torch: with the file's own names, and with those that come by default."""
    write_torch(folder / OWN_NAMES, flaxarch.to_torch(model, variables, source))
    write_torch(folder / DEFAULT_NAMES, flaxarch.to_torch(model, variables))


def main() -> None:
    """Read the networks that the command line asks for, or all that are in the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    present = [name for name in LIBRARIES if importlib.util.find_spec(name)]
    if present:
        raise SystemExit(f"{', '.join(present)} can be imported here: this would prove nothing")
    jax.config.update("jax_enable_x64", True)
    for name, pair in pairs().items():
        if name in args.names or (not args.names and scratch.folder_of(args.directory, pair).exists()):
            start = time.monotonic()
            kept.keep("pairs", name, read(pair, args.directory))
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
