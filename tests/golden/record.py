"""Records the golden files from the libraries themselves; no code of flaxarch runs.

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
from tests.golden.file import path, write

IMAGENET = {"num_classes": 1000, "evaluation": [[1, 224, 224], [1, 97, 113]], "training": [4, 65, 65]}
DILATED = IMAGENET | {"evaluation": [[1, 97, 113]]}  # no row, so no size of its own
CIFAR = {"num_classes": 10, "evaluation": [[2, 32, 32], [2, 29, 37]], "training": [4, 32, 32]}
RECORDED = {
    "torch": {
        "resnet18": IMAGENET,
        "resnet50": IMAGENET,
        "resnext50_32x4d": IMAGENET,
        "wide_resnet50_2": IMAGENET,
        "resnet50, output stride 8": DILATED,
        "resnet50d": DILATED,
        "resnet20": CIFAR,
        "wrn_16_4": CIFAR,
        "resnext29_8x64d": CIFAR | {"training": [4, 8, 12]},
    },
    "keras": {"resnet50_keras": IMAGENET},
}


def record(library: str, name: str) -> None:
    """Run one network of a library and write its golden file."""
    networks = importlib.import_module(f"tests.golden.{library}_networks")
    case = RECORDED[library][name]
    evaluations = [networks.evaluate(name, fill.images(*size)) for size in case["evaluation"]]
    batch = case["training"]
    training = networks.train(name, fill.images(*batch), fill.labels(batch[0], case["num_classes"]))
    write(path(name), networks.versions(), networks.shapes(name), case, evaluations, training)
    print(f"{path(name).name}: {path(name).stat().st_size / 1024:.0f} KiB, loss {training.loss:.6f}")


def main() -> None:
    """Record the networks that the command line asks for; all of a library, where it names none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("library", choices=RECORDED)
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    for name in args.names or RECORDED[args.library]:
        record(args.library, name)


if __name__ == "__main__":
    main()
