"""Damaged files of Keras: HDF5 in its three layouts of names, and `.keras` archives."""

import contextlib
import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import h5py
import numpy as np

from benchmarks.fuzz.bases import Base, Tensors, hdf5, keras1, keras2, keras3
from benchmarks.fuzz.blind import BLIND, NUMBERS, Place
from benchmarks.fuzz.zips import Part, damaged, written

Layout = Callable[..., None]


def _datasets(file: Any) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, x: names.append(name) if isinstance(x, h5py.Dataset) else None)
    return [name for name in names if "optimizer" not in name]


def _groups(file: Any) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, x: names.append(name) if isinstance(x, h5py.Group) else None)
    return ["/", *names]


def _other_dataset(rng: Random, file: Any, secret: str) -> None:
    """One tensor is a link, or data of another kind, or elsewhere."""
    name = rng.choice(_datasets(file))
    array = file[name][()]
    group, _, leaf = name.rpartition("/")
    parent = file[group]
    del parent[leaf]
    size = array.shape
    filters: tuple[dict[str, Any], ...] = (
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"compression": "lzf"},
        {"fletcher32": True},
        {"scaleoffset": 2},
        {"chunks": True},
        {"maxshape": (None,) * array.ndim},
    )
    makers: tuple[Callable[[], Any], ...] = (
        lambda: parent.__setitem__(leaf, h5py.ExternalLink(secret, "/x")),
        lambda: parent.__setitem__(leaf, h5py.ExternalLink("/proc/self/mem", "/x")),
        lambda: parent.__setitem__(leaf, h5py.SoftLink(f"/{name}")),
        lambda: parent.__setitem__(leaf, h5py.SoftLink(rng.choice(["/", "..", *_datasets(file)]))),
        lambda: parent.__setitem__(leaf, file["/"]),
        lambda: parent.__setitem__(leaf, file[rng.choice(_datasets(file))]),
        lambda: parent.create_group(leaf),
        lambda: parent.create_dataset(leaf, size, "f4", external=[(secret, 0, h5py.h5f.UNLIMITED)]),
        lambda: parent.create_dataset(leaf, size, "f4", external=[("/etc/passwd", 0, 4096)]),
        lambda: parent.create_virtual_dataset(leaf, _virtual(size, secret)),
        lambda: parent.create_dataset(leaf, (1 << 20, 1 << 20), "f4", chunks=(1 << 8, 1 << 8)),
        lambda: parent.create_dataset(
            leaf, (1 << 20, 1 << 20), "f4", chunks=(1 << 10, 1 << 10), compression="gzip"
        ),
        lambda: parent.create_dataset(leaf, data=np.zeros((2**12, 2**11), "f4"), compression="gzip"),
        lambda: parent.create_dataset(leaf, size, "f4"),
        lambda: parent.create_dataset(leaf, size, "f4", fillvalue=3),
        lambda: parent.create_dataset(leaf, (*size, 1), "f4", data=array),
        lambda: parent.create_dataset(
            leaf, data=array.astype(rng.choice((">f4", "f8", "f2", "i4", ">i2", "c8", "?")))
        ),
        lambda: parent.create_dataset(leaf, data=np.zeros(size, "V2")),
        lambda: parent.create_dataset(leaf, data=np.zeros(size, [("a", "f4"), ("b", "i4")])),
        lambda: parent.create_dataset(leaf, data=np.zeros(size, "S10")),
        lambda: parent.create_dataset(leaf, (3,), h5py.string_dtype()),
        lambda: parent.create_dataset(leaf, (3,), h5py.vlen_dtype(np.dtype("f4"))),
        lambda: parent.create_dataset(leaf, (3,), h5py.ref_dtype),
        lambda: parent.create_dataset(leaf, data=h5py.Empty("f4")),
        lambda: parent.create_dataset(leaf, (0, 2**40), "f4"),
        lambda: parent.create_dataset(leaf, data=array, **(rng.choice(filters) if array.ndim else {})),
        lambda: parent.create_dataset(leaf, data=np.zeros((1,) * 32, "f4")),
    )
    rng.choice(makers)()


def _virtual(shape: tuple[int, ...], secret: str) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[...] = h5py.VirtualSource(secret, "x", shape)
    return layout


def _other_group(rng: Random, file: Any, secret: str) -> None:
    """A group is missing, renamed, a cycle, very deep, or full."""
    name = rng.choice(_groups(file))
    group = file[name]
    match rng.randrange(8):
        case 0:
            group["vars"] = rng.choice((file["/"], h5py.SoftLink(name), h5py.ExternalLink(secret, "/")))
        case 1:
            group["loop"] = file[rng.choice(_groups(file))]
        case 2:
            deep = group
            for _ in range(rng.choice((70, 500))):
                deep = deep.create_group("g")
        case 3:
            for i in range(500):
                group.create_group(f"{i}/vars")
        case 4:
            child = rng.choice(list(group) or ["x"])
            if child in group:
                group.move(
                    child,
                    rng.choice(("vars", "", "model_weights", "\u202ea\nb", "optimizer", "y" * 5000)) or "z",
                )
        case 5:
            child = rng.choice(list(group) or ["x"])
            if child in group:
                del group[child]
        case 6:
            for i in range(300):
                group[f"link{i}"] = h5py.SoftLink("/x" * (i + 1))
        case _:
            group["conv2d"] = np.zeros(3)


def _other_attribute(rng: Random, file: Any, secret: str) -> None:
    """A list of names, or a name, is of another type or length, or names something else."""
    holders = [file[name] for name in _groups(file) if len(file[name].attrs)] or [file]
    group = rng.choice(holders)
    attribute = rng.choice([*group.attrs, "layer_names", "weight_names", "name"])
    values: tuple[Any, ...] = (
        1,
        1.5,
        np.zeros(3),
        np.zeros((2, 2), "i8"),
        "",
        "text",
        b"conv2d",
        [b"conv2d", b"conv2d"],
        [b"../x", b"/", b".", b""],
        [b"conv2d/kernel:0"] * 3000,
        np.array([b"\xff\xfe", b"a\nb"]),
        np.array([["a", "b"], ["c", "d"]], dtype=h5py.string_dtype()),
        np.array(["conv2d"] * 3, dtype=h5py.string_dtype()),
        np.array([b"x" * 1000] * 60),
        h5py.Empty("f4"),
        h5py.Empty("S1"),
        file.ref,
        np.zeros(2, [("a", "f4")]),
        "conv2d_" + "9" * 5000,
        "\ud800".encode("utf-8", "surrogatepass"),
        "x" * 60_000,
    )
    if attribute in group.attrs:
        del group.attrs[attribute]
    if rng.random() < 0.9:
        group.attrs[attribute] = rng.choice(values)
    if rng.random() < 0.2:
        for i in range(40):
            group.attrs[f"{attribute}{i}"] = [b"conv2d"]


_SIGNATURES = re.compile(rb"TREE|SNOD|HEAP|GCOL|OHDR|OCHK")


def _other_number(rng: Random, content: bytes, secret: str) -> bytes:
    """Numbers and addresses in the structures themselves: of other structures, so that they form cycles."""
    changed = bytearray(content)
    starts = [match.start() for match in _SIGNATURES.finditer(content)]
    places = [0, *starts]
    addresses = {struct.pack("<Q", start) for start in starts}
    known = [i for i in range(0, len(content) - 8, 8) if content[i : i + 8] in addresses]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if known and rng.random() < 0.4:
            position, size = rng.choice(known), 8
        else:
            position, size = rng.choice(places) + rng.randrange(4, 200), rng.choice((1, 2, 4, 8))
        value = rng.choice((*NUMBERS, *starts, rng.randrange(len(content)), len(content)))
        changed[position : position + size] = struct.pack("<q", value)[:size]
    return bytes(changed)


_IN_FILE = (_other_dataset, _other_dataset, _other_group, _other_attribute)
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"libver": "latest"},
    {"libver": "v110"},
    {"track_order": True},
    {"userblock_size": 512},
)


def hdf5_file(rng: Random, tensors: Tensors, layout: Layout, secret: str) -> tuple[str, bytes]:
    """What was done, and the file."""
    kind = rng.randrange(10)
    if kind < 4:
        content = hdf5(lambda file: layout(file, tensors))
        mutate = rng.choice(BLIND)
        return mutate.__name__, mutate(rng, content, Place(content, (x.tobytes() for x in tensors.values())))
    if kind < 6:
        storage = rng.choice(({}, {"compression": "gzip"}, {"chunks": True}))
        content = hdf5(lambda file: layout(file, tensors, **storage))
        return "number", _other_number(rng, content, secret)
    mutate = rng.choice(_IN_FILE)
    options = rng.choice(_OPTIONS) if rng.random() < 0.1 else {}

    def write(file: Any) -> None:
        layout(file, tensors)
        with contextlib.suppress(ValueError, OSError, KeyError, RuntimeError, TypeError):
            mutate(rng, file, secret)  # what h5py will not write is left half done

    return mutate.__name__.removeprefix("_other_"), hdf5(write, **options)


def keras2_file(rng: Random, base: Base, secret: str) -> tuple[str, bytes]:
    """A whole model of Keras 2."""
    return hdf5_file(rng, base.tensors, keras2, secret)


def keras1_file(rng: Random, base: Base, secret: str) -> tuple[str, bytes]:
    """Weights of Keras 1."""
    return hdf5_file(rng, base.tensors, keras1, secret)


def keras3_file(rng: Random, base: Base, secret: str) -> tuple[str, bytes]:
    """Weights of Keras 3."""
    return hdf5_file(rng, base.tensors, keras3, secret)


def _configs(rng: Random, canary: str) -> bytes:
    code = f"open({canary!r}, 'w').close()"
    layer = {"class_name": "Lambda", "module": "keras.layers", "config": {"name": "evil", "function": code}}
    call = {
        "class_name": "__lambda__",
        "config": {"code": "4wEAAAAA" + code, "defaults": None, "closure": None},
    }
    configs: tuple[Any, ...] = (
        {"config": {"layers": [layer]}},
        {"config": {"layers": [layer | {"config": {"function": call}}]}},
        {"module": "os", "class_name": "system", "config": {"command": f"touch {canary}"}},
        {"module": "builtins", "class_name": "exec", "config": code, "registered_name": "exec"},
        {
            "config": {
                "layers": [{"class_name": x, "config": {"name": x}} for x in (1, None, [], "A" * 10**6)]
            }
        },
        {"config": {"layers": [{"class_name": "Conv2D", "config": {"name": ["x"]}}] * 1000}},
        {"config": {"layers": "layers"}},
        {"config": None},
        [],
        "text",
    )
    deep = 10 ** rng.randint(3, 6)
    texts = [json.dumps(config).encode() for config in configs]
    texts += [
        b"[" * deep + b"]" * deep,
        b"{",
        b"\xff",
        b"",
        b'{"a": 1, "a": 2}',
        b"1" * 10**5,
        b" " * 2 * 10**7,
    ]
    return rng.choice(texts)


def archive(rng: Random, base: Base, canary: str, secret: str) -> tuple[str, bytes]:
    """What was done, and the `.keras` file."""
    content = hdf5(lambda file: keras3(file, base.tensors))
    config = json.dumps({"class_name": "Functional", "config": {"name": "model", "layers": []}}).encode()
    what, kind = "config", rng.randrange(10)
    if kind < 3:
        what, content = hdf5_file(rng, base.tensors, keras3, secret)
    elif kind < 5:
        config = _configs(rng, canary)
        if rng.random() < 0.5:  # names are then looked up in the configuration
            content = hdf5(lambda file: _without_names(file, base.tensors))
    parts = [Part(b"metadata.json", b"{}"), Part(b"config.json", config), Part(b"model.weights.h5", content)]
    if kind < 5:
        return what, written(parts)
    if kind < 8:
        return "zip", damaged(rng, parts[::-1])
    whole = written(parts)
    mutate = rng.choice(BLIND)
    return mutate.__name__, mutate(rng, whole, Place(whole, (x.tobytes() for x in base.tensors.values())))


def _without_names(file: Any, tensors: Tensors) -> None:
    keras3(file, tensors)
    for name in _groups(file):
        file[name].attrs.pop("name", None)
