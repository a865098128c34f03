"""The families' rows, merged: names to networks and to what was published of them."""

import csv
import dataclasses
import difflib
import fnmatch
from functools import cache
from importlib.resources import files
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxarch.layers import Conventions, Network
from flaxarch.models import (
    airbench,
    alexnet,
    bn_inception,
    cifar_resnet,
    densenet,
    dpn,
    googlenet,
    inception_resnet,
    inception_v3,
    inception_v4,
    lenet,
    mobilenet,
    mobilenet_v2,
    mobilenet_v3,
    nin,
    ode_resnet,
    preact_resnet,
    resnet,
    senet,
    shufflenet_v2,
    squeezenet,
    unet,
    vgg,
    wide_resnet,
    xception,
)
from flaxarch.variant import Top1, Variant

FAMILIES = (
    resnet,
    cifar_resnet,
    wide_resnet,
    senet,
    dpn,
    inception_v3,
    vgg,
    densenet,
    googlenet,
    unet,
    xception,
    shufflenet_v2,
    bn_inception,
    inception_v4,
    inception_resnet,
    nin,
    preact_resnet,
    alexnet,
    lenet,
    squeezenet,
    mobilenet,
    mobilenet_v2,
    mobilenet_v3,
    airbench,
    ode_resnet,
)
_VARIANTS: dict[str, Variant] = {name: row for family in FAMILIES for name, row in family.VARIANTS.items()}


class UnknownModelError(ValueError):
    """No row of the registry has this name."""


def list_models(pattern: str = "*") -> list[str]:
    """Names of all networks, or of those that a shell pattern matches (`"resnet*"`), sorted."""
    return sorted(fnmatch.filter(_VARIANTS, pattern))


def published(name: str) -> Variant:
    """What was published of a network: source, num_params, macs, input_shape, mean, std and more.

    Raises UnknownModelError, which suggests the nearest names.
    """
    if name not in _VARIANTS:
        near = difflib.get_close_matches(name, _VARIANTS, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "flaxarch.list_models() has all names"
        raise UnknownModelError(f"there is no model named {name!r}: {hint}")
    return _VARIANTS[name]._replace(top1=_top1().get(name, ()))


@cache
def _top1() -> dict[str, tuple[Top1, ...]]:
    """Accuracies by name. They are no part of a family's file, as they grow with others' recipes."""
    found: dict[str, tuple[Top1, ...]] = {}
    table = (files("flaxarch") / "data" / "imagenet_top1.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(table.splitlines()):
        found[row["name"]] = (*found.get(row["name"], ()), Top1(float(row["top1"]), row["source"]))
    return found


def create(name: str, num_classes: int | None = None, dtype: DTypeLike = jnp.float32) -> Network:
    """The network of a row, as a linen module; it holds no parameters.

    `num_classes` None is the row's own. `dtype` is that of the computation; parameters, batch statistics and
    logits stay float32. For other fields: `create("resnet50").clone(output_stride=16)`.
    """
    row = published(name)
    num_classes = row.num_classes if num_classes is None else num_classes
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}: a network has at least one class")
    return row.model(num_classes=num_classes, dtype=dtype)


def describe(model: Network) -> tuple[str, dict[str, Any]]:
    """The row nearest to a model, and the fields in which the model differs: name, {field: value}.

    `create(name).clone(**fields)` is the model again. `dtype`, the axis of synchronised batch norm, and
    whether batch norm is frozen belong to a computation and are left out. Raises ValueError where a
    difference is no plain value: a number, a string, a tuple of such.
    """
    differences = {
        name: _differing_fields(model, create(name))
        for name in _VARIANTS
        if type(create(name)) is type(model)
    }
    if not differences:
        raise ValueError(f"no row of the registry is a {type(model).__name__}")
    name = min(differences, key=lambda name: len(differences[name]))
    for field, value in differences[name].items():
        if not _is_plain(value):
            raise ValueError(f"this {type(model).__name__} is no published one: its {field} is {value}")
    return name, differences[name]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)


def _differing_fields(model: Network, other: Network) -> dict[str, Any]:
    fields = (f.name for f in dataclasses.fields(model) if f.init)
    fields = [name for name in fields if name not in ("parent", "name", "dtype", "axis_name")]
    pairs = {name: (getattr(model, name), getattr(other, name)) for name in fields}
    return {name: mine for name, (mine, its) in pairs.items() if not _is_same(mine, its)}


def _is_same(mine: Any, its: Any) -> bool:
    if isinstance(mine, Network) and type(mine) is type(its):  # a U-Net's encoder
        return not _differing_fields(mine, its)
    if isinstance(mine, Conventions):
        return mine == dataclasses.replace(its, frozen=mine.frozen, groups=mine.groups)
    return mine == its
