"""Pictures in batches through a network, for `flaxarch predict`."""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxarch import pictures, registry
from flaxarch.commands.base import CommandError, UsageError
from flaxarch.convert import Recognised
from flaxarch.functional import functional
from flaxarch.layers import Network
from flaxarch.pictures import Picture
from flaxarch.preprocess import preprocess_as
from flaxarch.variant import Variant


class Result(NamedTuple):
    """The likeliest classes of a picture, or why there are none."""

    name: str
    top: list[tuple[int, float]]  # class and probability, likeliest first
    problem: str = ""


def results(
    paths: Sequence[Path], model: Network, variables: Any, row: Variant, top: int, batch_size: int
) -> Iterator[Result]:
    """The `top` classes of each picture, in order. The network is compiled once, for one size of batch."""
    apply = functional(model).apply

    def logits_of(variables: Any, images: jax.Array) -> jax.Array:
        return apply(variables["params"], variables["batch_stats"], images, train=False)[0]

    images = jax.ShapeDtypeStruct((1, *row.input_shape), np.float32)
    logits = jax.eval_shape(logits_of, variables, images)
    if logits.ndim != 2:
        raise UsageError("this network gives a map of logits, and predict names whole pictures")

    @jax.jit
    def likeliest(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.top_k(jax.nn.softmax(logits_of(variables, images)), top)

    prepare, mode = preprocess_as(row), "L" if row.input_shape[2] == 1 else "RGB"

    def prepared(picture: Picture) -> np.ndarray | str:
        if picture.problem:
            return picture.problem
        try:
            return prepare(pictures.decode(picture.content, mode))
        except ValueError as error:  # UnreadablePicture, or too narrow to be cropped
            return str(error)

    every, batch = chain.from_iterable(map(pictures.read, paths)), None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while taken := list(islice(every, batch_size)):
            ready = list(pool.map(prepared, taken))
            if batch is None:  # the first is the largest
                batch = np.zeros((len(taken), *row.input_shape), np.float32)
            for image, place in zip(ready, batch, strict=False):
                place[...] = 0 if isinstance(image, str) else image
            probabilities, classes = map(np.asarray, likeliest(variables, batch))
            for picture, image, p, c in zip(taken, ready, probabilities, classes, strict=False):
                if isinstance(image, str):
                    yield Result(picture.name, [], image)
                elif not np.isfinite(p).all():
                    raise CommandError(
                        f"the network gives no numbers for {picture.name}: its weights are broken"
                    )
                else:
                    yield Result(picture.name, list(zip(c.tolist(), p.tolist(), strict=True)))


def row_of(found: Recognised, what: str) -> Variant:
    """The row of a checkpoint, with the preprocessing that the file `what` itself has, and its channels."""
    row = registry.published(found.name)
    given = {key: value for key, value in (found.preprocessing or {}).items() if key in _CHECKS}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    for key, value in given.items():
        if not _CHECKS[key](value):
            raise CommandError(f"{what} says how pictures are made, and its {key} makes no sense: {value}")
    row = row._replace(**given)
    height, width, channels = row.input_shape
    if not len(row.mean) == len(row.std) == channels:
        raise CommandError(f"{what} tells a mean and std that are not of {channels} channels")
    if found.in_channels not in (1, 3):
        raise UsageError(f"the network reads {found.in_channels} channels, and there are no such pictures")
    if found.in_channels == channels:
        return row
    # Grey pictures for a network of RGB, normalised as timm does; RGB for one of grey, each channel alike.
    mean, std = ((sum(values) / channels,) * found.in_channels for values in (row.mean, row.std))
    return row._replace(input_shape=(height, width, found.in_channels), mean=mean, std=std)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= 2**14


def _are_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(x) in (int, float) and math.isfinite(x) for x in value)


_CHECKS = {
    "input_shape": lambda x: isinstance(x, tuple) and len(x) == 3 and all(map(_is_count, x)),
    "resize": lambda x: x is None or _is_count(x),
    "interpolation": lambda x: x in ("nearest", "bilinear", "bicubic"),
    "mean": _are_numbers,
    "std": lambda x: _are_numbers(x) and all(x),
    "channels": lambda x: x in ("RGB", "BGR", "L"),
}
