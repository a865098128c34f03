"""Writes pickles from values, also such as no pickler writes, and damages them opcode by opcode."""

import pickle
import pickletools
import struct
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from benchmarks.fuzz.blind import NUMBERS


@dataclass(frozen=True)
class Global:
    """A name that the pickle asks for."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A call by the opcode REDUCE."""

    function: Any
    args: Any


@dataclass(frozen=True)
class Outside:
    """Something that is stored elsewhere, by its persistent id."""

    key: Any


@dataclass(frozen=True)
class Raw:
    """Opcodes as they are; they leave one value on the stack."""

    opcodes: bytes


def dumps(value: Any) -> bytes:
    """A whole pickle of protocol 2."""
    return b"\x80\x02" + encode(value) + b"."


def encode(value: Any) -> bytes:
    """Opcodes that leave the value on the stack."""
    match value:
        case Raw(opcodes):
            return opcodes
        case Global(module, name):
            return b"c" + f"{module}\n{name}\n".encode()
        case Call(function, args):
            return encode(function) + encode(args) + b"R"
        case Outside(key):
            return encode(key) + b"Q"
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            if -(2**31) <= value < 2**31:
                return b"J" + struct.pack("<i", value)
            content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8b" + struct.pack("<i", len(content)) + content
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            content = value.encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(content)) + content
        case tuple():
            return b"(" + b"".join(map(encode, value)) + b"t"
        case list():
            return b"](" + b"".join(map(encode, value)) + b"e"
        case dict():
            return b"}(" + b"".join(encode(x) for pair in value.items() for x in pair) + b"u"
    raise TypeError(type(value))


NO_HOOKS = Call(Global("collections", "OrderedDict"), ())


def tensor(array: np.ndarray, key: str, is_legacy: bool, **other: Any) -> Call:
    """A float32 tensor as torch pickles it; `other` replaces parts of that."""
    strides = tuple(stride // 4 for stride in array.strides)
    parts = {
        "id": ("storage", Global("torch", "FloatStorage"), key, "cpu", array.size) + (None,) * is_legacy,
        "offset": 0,
        "shape": array.shape,
        "strides": strides,
        "grad": False,
        "hooks": NO_HOOKS,
    } | other
    identity, *rest = parts.values()
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (Outside(identity), *rest))


def harms(canary: str) -> list[Any]:
    """Calls that would leave the file `canary` behind, if anything in a pickle were executed."""
    code = f"open({canary!r}, 'w').close()"
    shell = f"touch {canary}"
    opened = {"builtins.open": (canary, "w"), "io.open": (canary, "w"), "_io.open": (canary, "w")}
    calls = opened | {
        "os.system": (shell,),
        "posix.system": (shell,),
        "os.popen": (shell,),
        "os.mkdir": (canary,),
        "os.putenv": (canary, "1"),
        "subprocess.check_output": (["touch", canary],),
        "subprocess.Popen": (["touch", canary],),
        "builtins.eval": (code,),
        "builtins.exec": (code,),
        "__builtin__.eval": (code,),
        "builtins.__import__": ("antigravity",),
        "builtins.getattr": (Global("os", "system"), "__call__"),
        "builtins.map": (Global("os", "system"), [shell]),
        "runpy._run_code": (code, {}),
        "timeit.timeit": (code,),
        "code.InteractiveInterpreter": (),
        "pdb.run": (code,),
        "cProfile.run": (code,),
        "functools.partial": (Global("os", "system"), shell),
        "operator.methodcaller": ("__reduce__",),
        "shutil.copyfile": ("/etc/hostname", canary),
        "pathlib.Path.touch": (canary,),
        "numpy.load": (canary,),
        "numpy.testing._private.utils.runstring": (code, {}),
        "numpy.f2py.crackfortran.myeval": (code,),
        "pickle.loads": (b"".join((b"cos\nsystem\n", encode(shell), b"\x85R.")).decode("latin-1"),),
        "torch.load": (canary,),
        "torch.storage._load_from_bytes": (shell,),
        "torch._utils._rebuild_from_type_v2": (
            Global("os", "system"),
            Global("torch", "Tensor"),
            (shell,),
            None,
        ),
        "torch.jit.load": (canary,),
        "torch.serialization.load": (canary,),
        "torch.nn.modules.linear.Linear": (1, 1),
        "marshal.loads": (code,),
        "ctypes.CDLL": (canary,),
        "multiprocessing.util.spawnv_passfds": (),
        "copyreg._reconstructor": (Global("subprocess", "Popen"), Global("builtins", "object"), None),
        "flaxarch.convert.constructors.__builtins__": (),
        "__main__.__builtins__": (),
    }
    result: list[Any] = []
    for name, args in calls.items():
        module, _, attribute = name.rpartition(".")
        function = Global(module, attribute)
        result.append(Call(function, args))
        arguments = encode(args)
        named = encode(module) + encode(attribute) + b"\x93"
        start = b"(" + b"".join(map(encode, args))
        result += map(
            Raw,
            (
                named + arguments + b"R",
                named + arguments + b"\x81",
                named + arguments + b"}\x92",
                b"(" + named + start[1:] + b"o",
                start + b"i" + f"{module}\n{attribute}\n".encode(),
                encode(NO_HOOKS) + b"(" + encode("__reduce__") + encode(function) + b"db",
                encode(
                    Call(Global("torch._utils", "_rebuild_parameter"), (Call(function, args), True, NO_HOOKS))
                ),
            ),
        )
    return result


def absurd(rng: Random) -> Any:
    """A value that takes long, or much memory, or many levels, if it is let."""
    n = 10 ** rng.randint(3, 5)
    return Raw(
        rng.choice(
            (
                b"(" * n + b"t" * n,
                b"]" * n + b"a" * (n - 1),
                b")" + b"2\x86" * 200,
                b"}" + b")" + b"2\x86" * 200 + b"Ns",
                b"\x8b\xff\xff\xff\x7f1",
                b"\x8b" + struct.pack("<i", 10**6) + b"\x55" * 10**6,
                b"I" + b"9" * n + b"\n",
                b"L" + b"9" * n + b"L\n",
                b"\x8e" + struct.pack("<Q", 2**62) + b"bytes",
                b"B\xff\xff\xff\xffbytes",
                b"N0" * 6 * n + b"N",
                b"Nr\xff\xff\xff\xff",
                b"Np" + b"9" * 4000 + b"\n",
                b"\x82\x01" + b"\x83\x01\x02" + b"\x84\1\2\3\4",
                b"\x95" + struct.pack("<Q", rng.choice((0, 1, 2**40, 2**64 - 1))) + b"N",
                b"c_codecs\nencode\nq\x000X\0\0\x10\0"
                + bytes(2**20)
                + b"q\x010"
                + b"h\x00h\x01U\x06latin1\x86R" * 500,
                b"}(" + b"".join(encode(i * (2**61 - 1)) + b"N" for i in range(2, 5000)) + b"u",
                b"\x97",
                b"N\x98",
                b"j\xff\xff\xff\xff",
            )
        )
    )


def opcodes(content: bytes) -> list[bytes]:
    """A pickle, cut into opcodes with their arguments."""
    starts = [position for _, _, position in pickletools.genops(content) if position is not None]
    return [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]


_PALETTE = [op.code.encode("latin-1") for op in pickletools.opcodes]


def spliced(rng: Random, content: bytes) -> bytes:
    """A pickle with opcodes left out, doubled, put in, swapped, or with other numbers as arguments."""
    parts = opcodes(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(6):
            case 0:
                del parts[i]
            case 1:
                parts.insert(i, parts[j])
            case 2:
                parts.insert(i, rng.choice(_PALETTE) + rng.randbytes(rng.choice((0, 0, 1, 4))))
            case 3:
                parts[i], parts[j] = parts[j], parts[i]
            case 4:
                at = [k for k, part in enumerate(parts) if part[:1] == pickle.BININT]
                k = rng.choice(at or [i])
                parts[k] = encode(rng.choice((*NUMBERS, -(2**70), 2**70)))
            case _:
                n = rng.randint(1, 20)
                parts[j:j] = parts[i : i + n]
    return b"".join(parts)


def other_value(rng: Random) -> Any:
    """A value of any type, where another is expected."""
    plain = (None, True, 1.5, "", "cpu", (), (1,), [], {}, ("storage",))
    numbers = (-1, 2**31, 2**62, 2**63, 2**70, 10**400)
    named = (Global("torch", "FloatStorage"), Global("builtins", "list"), NO_HOOKS)
    return rng.choice((*plain, *numbers, *named, Outside(("storage",)), Outside(1)))


def wrong_tensor(rng: Random, array: np.ndarray, key: str, is_legacy: bool) -> Any:
    """The pickled tensor with one or two of its parts wrong."""
    storage = ("storage", Global("torch", "FloatStorage"), key, "cpu", array.size) + (None,) * is_legacy
    numbers = (*NUMBERS, array.size, array.size - 1, array.size + 1, -array.size)
    other: dict[str, Any] = {}
    for _ in range(rng.choice((1, 1, 2))):
        match rng.randrange(8):
            case 0:
                other["offset"] = rng.choice((*numbers, other_value(rng)))
            case 1:
                shape = list(array.shape) or [1]
                shape[rng.randrange(len(shape))] = rng.choice(numbers)
                other["shape"] = tuple(shape)
            case 2:
                other["shape"] = rng.choice(
                    ((2**62, 2**62), (0, 2**62, 2**62), (1,) * 65, (1,) * 1000, (2**25,), other_value(rng))
                )
                other["strides"] = (0,) * len(other["shape"]) if isinstance(other["shape"], tuple) else ()
            case 3:
                other["strides"] = rng.choice(
                    (tuple(rng.choice(numbers) for _ in array.shape), (0,) * array.ndim, (), other_value(rng))
                )
            case 4:
                parts = list(storage)
                parts[rng.randrange(len(parts))] = other_value(rng)
                other["id"] = tuple(parts)
            case 5:
                kinds = (
                    "Double",
                    "Half",
                    "BFloat16",
                    "Long",
                    "Char",
                    "Bool",
                    "ComplexFloat",
                    "QInt8",
                    "Untyped",
                )
                kind = Global("torch", f"{rng.choice(kinds)}Storage")
                other["id"] = (storage[0], kind, *storage[2:])
            case 6:
                other["id"] = (*storage[:4], rng.choice(numbers), *storage[5:])
            case _:
                other["id"] = rng.choice((other_value(rng), storage[:4], (*storage, None)))
    return tensor(array, key, is_legacy, **other)
