"""Gives what `read` exported back to torch's libraries, strictly. Needs them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.weights import kept, scratch
from benchmarks.weights.pairs import Pair, pairs
from benchmarks.weights.scratch import DEFAULT_NAMES, OWN_NAMES
from benchmarks.weights.write_torch import evaluate


def back(pair: Pair, directory: Path) -> dict[str, Any]:
    """Whether the library's network takes what was exported, and another library's its own names."""
    folder = scratch.folder_of(directory, pair)
    exported, default = (torch.load(folder / x, weights_only=True) for x in (OWN_NAMES, DEFAULT_NAMES))
    written = torch.load(folder / "zip.pth", weights_only=True)
    state = _loaded(pair, exported).state_dict()
    tensors = _without_counters(written)
    same = all(torch.equal(state[key], x) for key, x in tensors.items())
    found: dict[str, Any] = {"bits": same and tensors.keys() == exported.keys()}
    other = _taker(pair, default)
    if other is not pair:
        found["into"] = None if other is None else other.name
    if other not in (pair, None):
        expected = scratch.described(folder)[2]["float32"]
        logits = evaluate(_loaded(other, default), scratch.images_of(pair))
        found["error"] = float(np.abs(logits - expected).max() / np.abs(expected).max())
    return {"back": found}


def _loaded(pair: Pair, state: dict[str, Any]) -> Any:
    with torch.device("meta"):
        network = pair.case.build()
    network.to_empty(device="cpu").load_state_dict(state, strict=True)
    return network.eval()


def _without_counters(state: dict[str, Any]) -> dict[str, Any]:
    return {key: x for key, x in state.items() if not key.endswith("num_batches_tracked")}


def _taker(pair: Pair, state: dict[str, Any]) -> Pair | None:
    """The pair itself, or another library's of the same row, whose network has these names and shapes."""
    others = [other for other in pairs().values() if other.row == pair.row and other.library != "Keras"]
    shapes = {key: x.shape for key, x in state.items()}
    for other in [pair, *others]:
        with torch.device("meta"):
            tensors = _without_counters(other.case.build().state_dict())
        if {key: x.shape for key, x in tensors.items()} == shapes:
            return other
    return None


def main() -> None:
    """Take back the networks that the command line asks for, or all that were exported."""
    args = scratch.arguments(__doc__)
    torch.set_num_threads(1)
    for name, pair in pairs().items():
        exported = (scratch.folder_of(args.directory, pair) / OWN_NAMES).exists()
        if name in args.names or (not args.names and exported):
            found = back(pair, args.directory)
            kept.keep("pairs", name, found)
            print(name, found, flush=True)


if __name__ == "__main__":
    main()
