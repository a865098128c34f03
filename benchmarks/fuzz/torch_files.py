"""Damaged files of torch: the zip format and the legacy one."""

import pickle
import struct
from random import Random
from typing import Any

from benchmarks.fuzz.bases import Base
from benchmarks.fuzz.blind import BLIND, NUMBERS, Place
from benchmarks.fuzz.pickles import (
    NO_HOOKS,
    Call,
    Global,
    Outside,
    absurd,
    dumps,
    harms,
    other_value,
    spliced,
    tensor,
    wrong_tensor,
)
from benchmarks.fuzz.zips import Part, damaged, written

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def _tree(base: Base, is_legacy: bool) -> dict[str, Any]:
    return {name: tensor(x, str(key), is_legacy) for key, (name, x) in enumerate(base.tensors.items())}


def _wrong_tree(rng: Random, base: Base, is_legacy: bool, canary: str) -> tuple[str, Any]:
    """What was done, and the pickled object."""
    tree = _tree(base, is_legacy)
    name = rng.choice(list(tree))
    key, array = str(list(tree).index(name)), base.tensors[name]
    match rng.randrange(10):
        case 0 | 1 | 2:
            tree[name] = wrong_tensor(rng, array, key, is_legacy)
            return "tensor", tree
        case 3 | 4:
            harm = rng.choice(harms(canary))
            where = rng.choice(("value", "hooks", "top", "entry", "state"))
            if where == "value":
                tree[name] = harm
            elif where == "hooks":
                tree[name] = tensor(array, key, is_legacy, hooks=harm)
            elif where == "entry":
                return "harm", {"state_dict": tree, "optimizer": [harm], "epoch": 3}
            elif where == "state":
                return "harm", {
                    "hook": Call(Global("torch._utils", "_rebuild_parameter"), (harm, True, NO_HOOKS))
                } | tree
            else:
                return "harm", harm
            return "harm", tree
        case 5:
            tree[rng.choice((name, "extra"))] = absurd(rng)
            return "absurd", rng.choice((tree, {"state_dict": tree, "other": absurd(rng)}))
        case 6:
            tree[name] = tensor(array, str(rng.randrange(len(tree))), is_legacy)  # another's storage
            return "alias", tree
        case 7:
            other = rng.choice(
                ("", "x" * 10**6, "a\nb", "\ud800", 3, None, name + "_", (1, 2), "module." + name)
            )
            tree = {other if key == name else key: value for key, value in tree.items()}
            return "name", tree
        case 8:
            for _ in range(rng.choice((2, 5, 40))):
                tree = {rng.choice(("model", "state_dict", "net", "x")): tree}
            return "wrapper", tree
        case _:
            tree[name] = other_value(rng)
            return "value", rng.choice((tree, other_value(rng), [tree], Outside(("storage",))))


def parts_of(base: Base, content: bytes) -> list[Part]:
    """The entries of the zip format."""
    entries = {"data.pkl": content, "byteorder": b"little"}
    entries |= {f"data/{key}": x.tobytes() for key, x in enumerate(base.tensors.values())}
    entries |= {"version": b"3\n"}
    return [Part(f"archive/{name}".encode(), content) for name, content in entries.items()]


def zip_format(rng: Random, base: Base, canary: str) -> tuple[str, bytes]:
    """What was done, and the file."""
    sound = dumps(_tree(base, is_legacy=False))
    match rng.randrange(10):
        case 0 | 1 | 2:
            mutate = rng.choice(BLIND)
            content = written(parts_of(base, sound))
            place = Place(content, (x.tobytes() for x in base.tensors.values()))
            return mutate.__name__, mutate(rng, content, place)
        case 3 | 4 | 5:
            return "zip", damaged(rng, parts_of(base, sound))
        case 6:
            return "opcodes", written(parts_of(base, spliced(rng, sound)))
        case _:
            what, tree = _wrong_tree(rng, base, False, canary)
            return what, written(parts_of(base, dumps(tree)))


def legacy_format(rng: Random, base: Base, canary: str) -> tuple[str, bytes]:
    """What was done, and the file."""
    sections = [pickle.dumps(value, 2) for value in (MAGIC, VERSION, MACHINE)]
    keys = [str(key) for key in range(len(base.tensors))]
    sections += [dumps(_tree(base, is_legacy=True)), pickle.dumps(keys, 2)]
    counts = [x.size for x in base.tensors.values()]
    what = "sections"
    match rng.randrange(10):
        case 0 | 1 | 2:
            mutate = rng.choice(BLIND)
            content = _legacy(sections, counts, base)
            place = Place(content, (x.tobytes() for x in base.tensors.values()))
            return mutate.__name__, mutate(rng, content, place)
        case 3:
            i = rng.randrange(len(sections))
            sections[i] = rng.choice(
                (b"", dumps(other_value(rng)), dumps(absurd(rng)), sections[i - 1], b"\x80\x02")
            )
        case 4:
            wrong = (
                keys[1:],
                keys + keys,
                [*keys, "99"],
                keys[::-1],
                "0",
                dict.fromkeys(keys),
                [0],
                [[]],
                [keys],
            )
            sections[4] = pickle.dumps(rng.choice(wrong), 2)
            what = "keys"
        case 5:
            counts[rng.randrange(len(counts))] = rng.choice((*NUMBERS, counts[0] + 1))
            what = "counts"
        case 6:
            what, sections[3] = "opcodes", spliced(rng, sections[3])
        case 7 if rng.random() < 0.5:
            tree = _tree(base, is_legacy=True)
            name = rng.choice(list(tree))
            key, array = str(list(tree).index(name)), base.tensors[name]
            part = rng.choice(
                (("part", rng.choice(NUMBERS), rng.choice(NUMBERS)), (), 1, ("part", "0", None))
            )
            identity = ("storage", Global("torch", "FloatStorage"), key, "cpu", array.size, part)
            tree[name] = tensor(array, key, True, id=identity)
            what, sections[3] = "part", dumps(tree)
        case _:
            what, tree = _wrong_tree(rng, base, True, canary)
            sections[3] = dumps(tree)
    return what, _legacy(sections, counts, base)


def _legacy(sections: list[bytes], counts: list[int], base: Base) -> bytes:
    arrays = zip(counts, base.tensors.values(), strict=True)
    return b"".join(sections) + b"".join(struct.pack("<q", n) + x.tobytes() for n, x in arrays)
