"""What both formats share: the function that is exported, what a file says of it, and how it is written."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import jax

from flaxarch import registry
from flaxarch.functional import functional
from flaxarch.layers import Network

InputShape = tuple[int, int, int]  # height, width, channels

_OF_PICTURES = ("input_shape", "resize", "interpolation", "mean", "std", "channels")


def evaluation(model: Network) -> Callable[[Any, jax.Array], jax.Array]:
    """evaluate(variables, images) -> logits: what is exported. No gates, no dropout, the last exit only."""
    apply = functional(model).apply

    def evaluate(variables: Any, images: jax.Array) -> jax.Array:
        return apply(variables["params"], variables.get("batch_stats", {}), images, train=False)[0]

    return evaluate


def description(
    model: Network,
    input_shape: InputShape | None,
    preprocessing: Mapping[str, Any] | None,
    classes: Sequence[str] | None,
) -> tuple[dict[str, str], InputShape]:
    """What a file says of its network, in the words of `flaxarch.save`, and the images' shape.

    "name" is that of the registry's row, "fields" those in which the model differs from it, "num_classes" how
    many logits there are, "preprocessing" how pictures become images, and "classes" their names, if given.
    """
    name, fields = registry.describe(model)
    row = registry.published(name)
    pixels = {key: getattr(row, key) for key in _OF_PICTURES} | dict(preprocessing or {})
    shape = tuple(pixels["input_shape"] if input_shape is None else input_shape)
    if len(shape) != 3 or any(type(n) is not int or n < 1 for n in shape):
        raise ValueError(f"an input shape is height, width and channels, as (224, 224, 3), and not {shape}")
    if classes is not None and len(classes) != model.num_classes:
        raise ValueError(f"there are {len(classes)} names for {model.num_classes} classes")
    said = {
        "format": "flaxarch",
        "name": name,
        "fields": json.dumps(fields),
        "num_classes": str(model.num_classes),
        "preprocessing": json.dumps(pixels | {"input_shape": shape}),
    }
    if classes is not None:
        said["classes"] = json.dumps(list(classes))
    return said, shape


def needed(package: str, what: str) -> Any:
    """A package of the extra `export`, or a sentence that names it."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.split(".")[0]:
            raise
        raise ModuleNotFoundError(
            f"{what} needs {error.name}, which is not installed: pip install 'flaxarch[export]'",
            name=error.name,
        ) from error


@contextmanager
def whole_or_not_at_all(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside the file to write to, which takes the file's place if all goes well."""
    part = Path(path).with_name(Path(path).name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
