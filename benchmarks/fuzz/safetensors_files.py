"""Damaged `.safetensors` files, and those in parts with an index."""

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from benchmarks.fuzz.bases import Base
from benchmarks.fuzz.blind import BLIND, NUMBERS, Place

Files = dict[str, bytes]
Header = dict[str, Any]

_FIELDS = (
    '{"stage_sizes": [1000000, 1000000]}',
    '{"stage_sizes": [-1]}',
    '{"stage_sizes": [5000, 5000, 5000]}',
    '{"stage_sizes": [10000000000]}',
    '{"stage_sizes": "abc"}',
    '{"stage_sizes": [[1]]}',
    '{"block_sizes": [9000, 9000]}',
    '{"widths": [10000000000, 1, 1]}',
    '{"growth_rate": 1000000}',
    '{"survival_prob": "x", "dropout_rate": -1}',
    '{"num_classes": 1.5}',
    '{"num_classes": null}',
    '{"num_classes": true}',
    '{"num_classes": 100000000000}',
    '{"num_classes": -1}',
    '{"no_such_field\\n": 1}',
    '{"name": "evil", "parent": null}',
    "[]",
    "{",
    '{"dtype": "float999"}',
    '{"num_classes": "10"}',
    "[" * 100_000,
)


def header_of(base: Base, names: list[str] | None = None) -> tuple[Header, bytes]:
    """The header, and the bytes of the tensors behind it."""
    header, data = {}, b""
    for name in base.tensors if names is None else names:
        raw = base.tensors[name].tobytes()
        shape = list(base.tensors[name].shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return header, data


def written(header: Header | bytes, data: bytes, size: int | None = None) -> bytes:
    """The file; `size` is the header's, if it is not the truth."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size % 2**64) + text + data


def _other(rng: Random) -> Any:
    return rng.choice(
        (None, True, -1, 1.5, "F32", "", [], {}, [None], 2**63, 10**400, [1, 2, 3], float("nan"))
    )


def _wrong_entry(rng: Random, header: Header, data: bytes) -> bytes:
    """One tensor is described wrongly."""
    name = rng.choice(list(header))
    entry = header[name]
    numbers = (*NUMBERS, 2**64, 2**70, len(data), len(data) + 1)
    match rng.randrange(8):
        case 0:
            entry["data_offsets"] = [rng.choice(numbers), rng.choice(numbers)]
        case 1:
            entry["data_offsets"] = [x + rng.choice((-4, 4, 1)) for x in entry["data_offsets"]]
        case 2:
            entry["data_offsets"] = header[rng.choice(list(header))]["data_offsets"]
        case 3:
            kinds = ("F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "F4", "C64", "X" * 10**5, "f32", "F32\n")
            entry["dtype"] = rng.choice(kinds)
        case 4:
            entry["shape"] = rng.choice(
                ([rng.choice(numbers)], [2**62, 2**62, 0], [1] * 65, [-1, -1], [[1]], ["1"])
            )
        case 5:
            entry[rng.choice(list(entry))] = _other(rng)
        case 6:
            del entry[rng.choice(list(entry))]
        case _:
            header[name] = _other(rng)
    return written(header, data)


def _wrong_name(rng: Random, header: Header, data: bytes) -> bytes:
    name = rng.choice(list(header))
    other = rng.choice(
        ("", "a\nb", "x" * 10**6, "\ud800", "__metadata__", name.upper(), "../x", "\0", "\u202e")
    )
    return written({other if key == name else key: value for key, value in header.items()}, data)


def _wrong_json(rng: Random, header: Header, data: bytes) -> bytes:
    text, depth = json.dumps(header), 10 ** rng.randint(2, 6)
    name = rng.choice(list(header))
    twice = text[:-1] + f', "{name}": ' + json.dumps(header[name]) + "}"
    texts = (
        twice,
        twice.replace('"F32"', '"F32", "dtype": "F64"', 1),
        '{"a": ' + "[" * depth + "]" * depth + "}",
        '{"a": ' + '{"a": ' * depth + "1" + "}" * depth + "}",
        "{" + text,
        text[: rng.randrange(1, len(text))],
        text.replace(",", ",,", 1),
        text.replace("[", "[1e999, ", 1),
        text.replace("[", "[" + "9" * 10**4 + ", ", 1),
        "\ufeff" + text,
        '{"a": ' + "[" + "[]," * 3 * 10 ** rng.randint(3, 6) + "[]]}",
        text + "\0" * 100,
        "null",
        "{}",
    )
    return written(rng.choice(texts).encode(), data)


def _wrong_size(rng: Random, header: Header, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    size = rng.choice(
        (*NUMBERS, len(text) - 1, len(text) + 1, len(text) + len(data), len(text) + len(data) + 1, 10**8)
    )
    return written(text, data, size=size)


def _wrong_metadata(rng: Random, header: Header, data: bytes) -> bytes:
    row = rng.choice(("lenet5", "resnet20", "densenet121", "inception_v3"))
    own = {"format": "flaxarch", "name": row, "fields": rng.choice(_FIELDS), "in_channels": "1"}
    if rng.random() < 0.3:
        own[rng.choice(list(own))] = rng.choice(("", "resnet20", "\n", "-1", "1e9", "9" * 5000, *_FIELDS))
    own |= rng.choice(({}, {"classes": "[1]"}, {"classes": "[" * 10**5}, {"preprocessing": "[[]]"}))
    huge = {"x": "y" * rng.choice((10**5, 10**7, 2 * 10**7))}
    values = (own, own, own, huge, {"x": 1}, {"x": {}}, [], "text", None, {str(i): "" for i in range(10**5)})
    return written({"__metadata__": rng.choice(values)} | header, data)


def _wrong_data(rng: Random, header: Header, data: bytes) -> bytes:
    names = list(header)
    rng.shuffle(names)
    changed = (data[:-1], data + b"\0", data[: len(data) // 2], b"", data + data)
    return written({name: header[name] for name in names}, rng.choice((*changed, data)))


STRUCTURED: tuple[Callable[[Random, Header, bytes], bytes], ...] = (
    _wrong_entry,
    _wrong_entry,
    _wrong_entry,
    _wrong_name,
    _wrong_json,
    _wrong_size,
    _wrong_metadata,
    _wrong_data,
)


def single(rng: Random, base: Base, names: list[str] | None = None) -> tuple[str, bytes]:
    """What was done, and the file."""
    header, data = header_of(base, names)
    if rng.random() < 0.4:
        mutate = rng.choice(BLIND)
        content = written(header, data)
        place = Place(content, (base.tensors[name].tobytes() for name in header))
        return mutate.__name__, mutate(rng, content, place)
    wrong = rng.choice(STRUCTURED)
    return wrong.__name__.strip("_").removeprefix("wrong_"), wrong(rng, header, data)


INDEX = "model.safetensors.index.json"


def sharded(rng: Random, base: Base) -> tuple[str, Files]:
    """What was done, and the files: the index first."""
    names, shards = (
        list(base.tensors),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    )
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    parts = {shard: written(*header_of(base, half)) for shard, half in zip(shards, halves, strict=True)}
    places: dict[Any, Any] = {name: shards[name in halves[1]] for name in names}
    index: Any = {"metadata": {"total_size": 1}, "weight_map": places}
    what, name = "map", rng.choice(names)
    match rng.randrange(8):
        case 0 | 1:
            i = rng.randrange(2)
            what, parts[shards[i]] = single(rng, base, list(halves[i]))
        case 2:
            lost = rng.choice(shards)
            what = "lost"
            parts = {shard: content for shard, content in parts.items() if shard != lost} | {
                f"{lost}.txt": parts[lost]
            }
        case 3:
            places[name] = rng.choice(
                (
                    "../x.safetensors",
                    "/etc/passwd",
                    ".",
                    "..",
                    "",
                    "a\0b",
                    "\ud800",
                    "x" * 5000,
                    INDEX,
                    1,
                    None,
                    [],
                )
            )
        case 4:
            places[rng.choice((name, "extra"))] = rng.choice(shards)
            del places[rng.choice(names)]
        case 5:
            index = rng.choice((_other(rng), {"weight_map": _other(rng)}, {}, {"weight_map": {}}, [index]))
        case _:
            text = json.dumps(index).encode()
            if rng.random() < 0.5:
                mutate = rng.choice(BLIND)
                return f"index: {mutate.__name__}", {INDEX: mutate(rng, text, Place(text, ()))} | parts
            deep = b'{"weight_map": ' + b"[" * 10**5
            return "index", {
                INDEX: rng.choice((deep, text * 2, text[:-1], b"{", b"{}" + bytes(10**6)))
            } | parts
    return what, {INDEX: json.dumps(index).encode()} | parts
