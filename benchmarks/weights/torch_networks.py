"""All networks of torchvision, timm and pytorchcv by name. Needs these."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import timm  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
import torchvision  # pyright: ignore[reportMissingImports]
from pytorchcv import model_provider  # pyright: ignore[reportMissingImports]

from benchmarks.weights import scratch
from benchmarks.weights.pairs import Pair
from benchmarks.weights.write_torch import evaluate
from flaxarch.convert import Checkpoint, strict, to_torch
from flaxarch.convert.recognise import recognise_checkpoint, shapes_of
from tests.golden import fill

Build = Callable[[], Any]


def builders(library: str) -> Iterator[tuple[str, str, Build]]:
    """(module, name, builder) of each network for images; pytorchcv's of one data set of each kind."""
    if library == "torchvision":
        for name in torchvision.models.list_models(module=torchvision.models):
            build = torchvision.models.get_model_builder(name)
            yield build.__module__.rpartition(".")[2], name, build
    elif library == "timm":
        for name in timm.list_models():
            build = timm.models.model_entrypoint(name)
            yield build.__module__.rpartition(".")[2], name, build
    else:
        for name, build in model_provider._models.items():
            if not name.endswith(("_cub", "_cifar100", "_svhn")):  # networks of ImageNet and CIFAR-10 again
                yield build.__module__.rpartition(".")[2], name, build


def shapes(build: Build) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a network's state dict."""
    with torch.device("meta"):
        return {key: tuple(x.shape) for key, x in build().state_dict().items()}


def difference(build: Build, pair: Pair) -> float | None:
    """Largest difference of logits from the pair's network with the same weights, over the largest logit.

    Where the two have other names, the weights are read by our rules and go back under the pair's names. None
    where that network does not take them.
    """
    state = scratch.values(shapes(build))
    network, other = build(), pair.case.build()  # not on "meta": buffers that are in no state dict count too
    expected_shapes = {key: tuple(x.shape) for key, x in other.state_dict().items()}
    other_state = state if shapes(build) == expected_shapes else _renamed(state, pair)
    tensors = {key for key in expected_shapes if not key.endswith("num_batches_tracked")}
    if tensors - other_state.keys():
        return None
    images = fill.images(1, *_size(network, pair), pair.case.channels)
    logits = []
    for each, weights in ((network, state), (other, other_state)):
        each.load_state_dict({key: torch.from_numpy(x) for key, x in weights.items()})
        logits.append(evaluate(each.eval(), images))
    found, expected = logits
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _renamed(state: dict[str, np.ndarray], pair: Pair) -> dict[str, np.ndarray]:
    recognised = recognise_checkpoint(Checkpoint(state, {}), pair.name, pair.row)
    shapes = shapes_of(recognised.model)
    return to_torch(recognised.model, strict.fill(shapes, state, recognised.rules, what=pair.name))


def _size(network: Any, pair: Pair) -> tuple[int, int]:
    """Height and width that both take: pytorchcv's networks mostly take one size, and some no odd maps."""
    if hasattr(network, "in_size"):
        return network.in_size
    return pair.size[1:] if pair.case.fields.get("fully_convolutional") else (128, 128)
