"""Which networks the libraries have of our families, and which row reads each: by names and shapes alone.

    python -m benchmarks.weights.catalogue torch [LIBRARY ...]   where torch, torchvision, timm, pytorchcv are
    python -m benchmarks.weights.catalogue keras                 where Keras is
    python -m benchmarks.weights.catalogue keys FOLDER           of names and shapes in lists

Two networks may have the same tensors and be two functions: of each torch network that a row reads, the
logits are compared with those of the pair that has been compared with ours.
"""

import argparse
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.weights import kept, libraries
from benchmarks.weights.pairs import LIBRARIES, Pair, pairs
from flaxarch.convert import Checkpoint, CheckpointError
from flaxarch.convert.recognise import recognise_checkpoint

Shapes = dict[str, tuple[int, ...]]


def rows_of(shapes: Shapes) -> list[str]:
    """The row that tensors of these names and shapes are recognised as, or several, or none."""
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    try:
        return [recognise_checkpoint(Checkpoint(tensors, {}), "these tensors", None).name]
    except CheckpointError as error:
        words = str(error).partition("fits several rows, ")[2].partition(":")[0]
        return words.split(", ") if words else []


def list_torch(names: list[str], only: str) -> None:
    """Keep the rows of all networks of torch's libraries that are of our families."""
    torch_networks = importlib.import_module("benchmarks.weights.torch_networks")
    known = pairs()
    for library in names:
        for module, name, build in torch_networks.builders(library):
            family = libraries.family(library, f"{module}/{name}")
            if family is None or not re.search(only, name):
                continue
            shapes = torch_networks.shapes(build)
            rows = rows_of(shapes)
            found: dict[str, Any] = {"family": family, "rows": rows}
            if len(rows) == 1:
                like = _like(known.values(), library, name, rows[0])
                if like is not None:
                    found |= {"compared with": like.name, "error": torch_networks.difference(build, like)}
            kept.keep("catalogue", f"{library} {name}", found)
            print(library, name, family, rows, found.get("error", ""), flush=True)


def _like(known: Iterable[Pair], library: str, name: str, row: str) -> Pair | None:
    """The pair of the same row to compare a network with; None where the network is a pair itself."""
    fits = [pair for pair in known if pair.row == row and pair.library != "Keras"]
    if any(pair.library == library and pair.case.builder.endswith(f":{name}") for pair in fits):
        return None
    return min(fits, key=lambda pair: pair.library == "pytorchcv", default=None)


def list_keras() -> None:
    """Keep the rows of Keras's applications that are of our families, with their default arguments."""
    keras = importlib.import_module("tests.golden.keras_library").keras
    for name in sorted(dir(keras.applications)):
        family = libraries.family("Keras", name)
        if family is None:
            continue
        keras.backend.clear_session()
        network = getattr(keras.applications, name)(weights=None)
        rows = rows_of({variable.path: tuple(variable.shape) for variable in network.weights})
        kept.keep("catalogue", f"Keras {name}", {"family": family, "rows": rows})
        print("Keras", name, family, rows, flush=True)


def list_keys(folder: Path) -> None:
    """Keep the rows of all lists LIBRARY__NETWORK.txt that are in the catalogue."""
    catalogue = kept.read()["catalogue"]
    for path in sorted(folder.glob("*.txt")):
        prefix, _, name = path.stem.partition("__")
        library = LIBRARIES[prefix]
        listed = catalogue.get(f"{library} {name}")
        if listed is not None:
            rows = rows_of(dict(_listed(path)))
            kept.keep("keys", f"{library} {name}", {"family": listed["family"], "rows": rows})
            print(library, name, rows, flush=True)


def _listed(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        name, shape, *_ = line.split("\t")
        yield name, tuple(int(n) for n in re.findall(r"\d+", shape))


def main() -> None:
    """Keep what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("torch", "keras", "keys"))
    parser.add_argument("arguments", nargs="*", metavar="LIBRARY or FOLDER")
    parser.add_argument("--only", default="", help="of torch's networks those with this pattern in the name")
    args = parser.parse_args()
    if args.what == "torch":
        list_torch(args.arguments or ["torchvision", "timm", "pytorchcv"], args.only)
    elif args.what == "keras":
        list_keras()
    else:
        list_keys(Path(args.arguments[0]))


if __name__ == "__main__":
    main()
