"""Records the golden files from the libraries themselves; no network of flaxarch runs.

From the root of the repository, with torch, torchvision and timm installed, or with Keras:

    python -m tests.golden.record torch [NAME ...]
    python -m tests.golden.record keras [NAME ...]

A file holds, in float64, the logits for two sizes of images, sketches of the activations after each stage,
and of one training step the loss and sketches of all gradients and batch-norm statistics: see `fill.py` and
`outputs.py`. The versions that made it stand in it.
"""

import argparse
import importlib

from tests.golden import fill
from tests.golden.families.every import CASES, GOLDEN
from tests.golden.file import path, write


def record(name: str) -> None:
    """Run one network of a library and write its golden file."""
    case = CASES[name]
    library = importlib.import_module(f"tests.golden.{case.library}")
    evaluations = [library.evaluate(case, fill.images(*size, case.channels)) for size in case.evaluation]
    images, labels = (
        fill.images(*case.training, case.channels),
        fill.labels(case.training[0], case.num_classes),
    )
    training = library.train(case, images, labels)
    write(path(name), library.versions(), library.shapes(case), case, evaluations, training)
    print(f"{path(name).name}: {path(name).stat().st_size / 1024:.0f} KiB, loss {training.loss:.6f}")


def main() -> None:
    """Record the networks that the command line asks for; all of a library, where it names none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("library", choices=("torch", "keras"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    for name in args.names or GOLDEN:
        if CASES[name].library == f"{args.library}_library":
            record(name)


if __name__ == "__main__":
    main()
