"""`flaxarch compare`: networks side by side, and what sets apart those of one family."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

import flaxarch
from flaxarch.commands.base import Column, Command, UsageError, print_json, print_table, stdout, times

if TYPE_CHECKING:
    from flaxarch.layers import Network

_MOST = 8  # columns that a person can still read


@dataclass(frozen=True)
class Compare(Command):
    """Puts networks side by side: costs, what they see, their pictures, and in which fields they differ.

    Costs are for one image of each network's own input size, or of one size for all. Ratios are to the first.
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """Two networks to eight of those that `flaxarch list` shows, or patterns of names, as "resnet1??"."""
    input_shape: tuple[int, int, int] | None = None
    """Height, width and channels of the image for all; None: each row's own."""

    def run(self) -> int:
        """Prints a column for each network."""
        names = [name for given in self.names for name in _matches(given)]
        if not 2 <= len(names) <= _MOST:
            found = f", not {len(names)}" if names else ""
            raise UsageError(
                f"compare takes two networks to {_MOST}{found}, as in "
                "`flaxarch compare resnet50 resnet50v2_keras`"
            )
        documents = [_document(name, self.input_shape) for name in names]
        models = [flaxarch.create(name) for name in names]
        fields = _differing_fields(models)
        if self.json:
            print_json(
                [{**document, "fields": given} for document, given in zip(documents, fields, strict=True)]
            )
            return 0
        columns = (Column(""), *(Column(name, True) for name in names))
        print_table(columns, [(title, *cells) for title, cells in _lines(documents)])
        if len({type(model) for model in models}) == 1:
            same = "They differ in no field." if not fields[0] else "Fields that differ:"
            stdout().print(f"\nAll are {type(models[0]).__name__}s. {same}")
            if fields[0]:
                print_table(columns, [(key, *(given[key] for given in fields)) for key in fields[0]])
        return 0


def _matches(name: str) -> list[str]:
    """The networks of a pattern; a name is itself, known or not."""
    if not set(name) & set("*?["):
        return [name]
    if names := flaxarch.list_models(name):
        return names
    raise UsageError(f"no network's name fits {name!r}: `flaxarch list` has all names")


def _document(name: str, input_shape: tuple[int, int, int] | None) -> dict[str, Any]:
    row = flaxarch.published(name)
    shape = input_shape or row.input_shape
    try:
        found = flaxarch.cost(flaxarch.create(name), shape)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error
    run = [layer for layer in found.layers if layer.output_shape]
    last = max(run, key=lambda layer: layer.receptive_field)
    return {
        "name": name,
        "source": row.source,
        "input_shape": shape,
        "num_classes": row.num_classes,
        "top1": [result._asdict() for result in row.top1],
        "num_params": found.num_params,
        "num_batch_stats": found.num_batch_stats,
        "macs": found.macs,
        "activation_bytes": found.activation_bytes,
        "num_layers": sum(1 for layer in run if layer.macs),  # projections too, which papers do not count
        "receptive_field": last.receptive_field,
        "resize": row.resize,
        "interpolation": row.interpolation,
        "channels": row.channels,
        "mean": row.mean,
        "std": row.std,
    }


def _lines(documents: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """A title, and a cell for each network."""

    def against_first(key: str, scale: float, unit: str) -> list[str]:
        first = documents[0][key]
        values = [document[key] for document in documents]
        ratios = [f" ({x / first:.2f}x)" if i and first else "" for i, x in enumerate(values)]
        return [f"{x / scale:,.4g}{unit}{ratio}" for x, ratio in zip(values, ratios, strict=True)]

    def words(key: str) -> list[str]:
        values = [document[key] for document in documents]
        return [times(x) if isinstance(x, tuple) else "stretched" if x is None else str(x) for x in values]

    def four_digits(key: str) -> list[str]:
        return [" ".join(f"{x:.4g}" for x in document[key]) for document in documents]

    def top1(choose: Callable[[Any], float]) -> list[str]:
        return [f"{choose(document['top1']):.1f} %" if document["top1"] else "" for document in documents]

    return [
        ("parameters", against_first("num_params", 1e6, " M")),
        ("MACs", against_first("macs", 1e9, " G")),
        ("activations", against_first("activation_bytes", 2**20, " MiB")),
        ("layers with weights", words("num_layers")),
        ("batch statistics", words("num_batch_stats")),
        ("ImageNet top-1, first", top1(lambda results: results[0]["percent"])),
        ("ImageNet top-1, best", top1(lambda results: max(result["percent"] for result in results))),
        ("sees, pixels", words("receptive_field")),
        ("input", words("input_shape")),
        ("classes", words("num_classes")),
        ("shorter side resized to", words("resize")),
        ("interpolation", words("interpolation")),
        ("channels", words("channels")),
        ("mean", four_digits("mean")),
        ("std", four_digits("std")),
        ("source", words("source")),
    ]


def _differing_fields(models: "list[Network]") -> list[dict[str, str]]:
    """For each network the fields, in words, in which not all are the same; none of different classes."""
    if len({type(model) for model in models}) > 1:
        return [{} for _ in models]
    keys = [f.name for f in dataclasses.fields(models[0]) if f.init and f.name not in ("parent", "name")]
    shown = [_flat({key: getattr(model, key) for key in keys}) for model in models]
    names = dict.fromkeys(key for given in shown for key in given)
    different = [key for key in names if len({given.get(key, "") for given in shown}) > 1]
    return [{key: given.get(key, "") for key in different} for given in shown]


def _flat(fields: dict[str, Any]) -> dict[str, str]:
    """Values in words; those of dataclasses one by one, as "conventions.epsilon"."""
    found: dict[str, str] = {}
    for key, value in fields.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "init"):
            inner = {f"{key}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)}
            found |= _flat(inner)
        else:
            found[key] = _in_words(value)
    return found


def _in_words(value: Any) -> str:
    """A value as a person would write it: functions and classes by their names."""
    if isinstance(value, tuple):
        return " ".join(map(_in_words, value))
    if hasattr(value, "func"):  # a partial
        given = ", ".join(
            [*map(_in_words, value.args), *(f"{k}={_in_words(v)}" for k, v in value.keywords.items())]
        )
        return f"{_in_words(value.func)}({given})"
    name = getattr(value, "__qualname__", None)
    return str(value) if name is None else name.replace(".<locals>", "").split(".")[0]
