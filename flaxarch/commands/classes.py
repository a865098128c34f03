"""Names of classes: from a file of lines, from a checkpoint, or of the data set that a row was trained on."""

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from flaxarch.commands.base import UsageError

if TYPE_CHECKING:
    from flaxarch.convert import Recognised
    from flaxarch.variant import Variant

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")


def class_names(found: "Recognised", row: "Variant", file: Path | None) -> tuple[tuple[str, ...], str]:
    """The names of a checkpoint's classes, and where they are from: "ImageNet"."""
    num_classes = found.model.num_classes
    if file is not None:
        return read_classes(file, num_classes), str(file)
    if found.classes is not None:
        return tuple(map(str, found.classes)), "the checkpoint"
    if num_classes == row.num_classes == 1000:
        return imagenet_classes(), "ImageNet"
    if num_classes == row.num_classes == 10:
        return (CIFAR10, "CIFAR-10") if row.input_shape[2] == 3 else (DIGITS, "digits")
    return tuple(f"class {i}" for i in range(num_classes)), "numbers"


def read_classes(path: Path, num_classes: int) -> tuple[str, ...]:
    """The lines of a file, less empty ones and comments (`# ...`). UsageError: they are not `num_classes`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise UsageError(f"the file of class names {path} is not there") from error
    except ValueError as error:
        raise UsageError(f"{path} is not UTF-8 text: it should name a class on each line") from error
    names = tuple(line.strip() for line in lines if line.strip() and not line.startswith("# "))
    if len(names) != num_classes:
        raise UsageError(f"{path} names {len(names)} classes, and the network has {num_classes}")
    return names


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 classes of ILSVRC 2012; two that share a name (crane, maillot) have their WordNet ids too."""
    text = resources.files("flaxarch").joinpath("data/imagenet_classes.txt").read_text(encoding="utf-8")
    pairs = [line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    counts = Counter(name for _, name in pairs)
    return tuple(name if counts[name] == 1 else f"{name} ({number})" for number, name in pairs)
