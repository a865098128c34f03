"""Reads the named tensors of a checkpoint file, in whichever format its first bytes announce."""

import importlib
import json
import os
import re
import stat
import zipfile
from types import ModuleType
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  # makes NumPy know the name "bfloat16", under which safetensors asks for it
import numpy as np
from safetensors import SafetensorError, safe_open

from flaxarch.convert.torch_file import read_torch
from flaxarch.convert.unpickle import CheckpointError

# Where training scripts put the state dict among their other entries; the first one present is taken.
# Averaged weights come last, so that they are read only where a file has no others.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params", "state_dict_ema", "model_ema")
MAX_WRAPPERS = 3  # one in the other

# What a wrapping module puts before every name: DataParallel, a trainer's class, torch.compile.
PREFIXES = re.compile(r"(module\.|model\.|_orig_mod\.)*")

# Those NumPy knows, by itself or through ml_dtypes, and safetensors hands out.
FLOATS, BOOL = ("F64", "F32", "F16", "BF16"), ("BOOL",)
INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")


class Checkpoint(NamedTuple):
    """What a file holds. Its arrays may be views of the file, which are read-only."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]  # of .safetensors; {} in other formats


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a file of torch, of Keras (`.h5`, `.weights.h5`, `.keras`) or a `.safetensors` file.

    The first bytes tell which it is; the extension does not matter, but for a `.safetensors.index.json`,
    which brings all the files that it names.

    In a torch file, this finds the state dict, at the top or under one of `WRAPPERS`, and takes the prefixes
    that all names have off them. Other entries, such as the optimizer's state, are left out.
    """
    path = os.fspath(path)
    head = _first_bytes(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Checkpoint(_hdf5().read_hdf5(path), {})
    if head.startswith(b"PK") and _is_keras_archive(path):
        return Checkpoint(_hdf5().read_keras_archive(path), {})
    if head.lstrip().startswith(b"{") and path.endswith(".json"):
        return _read_index(path)
    if head[4:] == b"\0\0\0\0{":  # eight bytes give the size of the header (at most 100 MB), which is JSON
        return _read_safetensors(path)
    tree = read_torch(path)
    tensors = _find_state_dict(tree, MAX_WRAPPERS)
    if tensors is None:
        raise CheckpointError(f"{path}: there is no state dict in this file, which holds {_contents(tree)}")
    prefix = PREFIXES.match(os.path.commonprefix(list(tensors)))  # noqa: RUF071  # by character, as meant
    start = prefix.end() if prefix else 0
    return Checkpoint({name[start:]: tensor for name, tensor in tensors.items()}, {})


def _first_bytes(path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            raise CheckpointError(f"{path}: this is a directory or a device, not a file")
        with open(path, "rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: the file cannot be read ({error.strerror})") from error
    if not head:
        raise CheckpointError(f"{path}: the file is empty")
    return head


def _hdf5() -> ModuleType:
    """The reader of Keras's files: h5py is imported only where there is one."""
    return importlib.import_module("flaxarch.convert.hdf5")


def _is_keras_archive(path: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "model.weights.h5" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError):  # that of a later version, or encrypted
        return False


def _find_state_dict(tree: Any, num_wrappers: int) -> dict[str, np.ndarray] | None:
    if type(tree) is not dict or not tree:
        return None
    if all(type(name) is str and isinstance(value, np.ndarray) for name, value in tree.items()):
        return tree
    for wrapper in WRAPPERS if num_wrappers else ():
        tensors = _find_state_dict(tree.get(wrapper), num_wrappers - 1)
        if tensors is not None:
            return tensors
    return None


def _contents(tree: Any) -> str:
    if type(tree) is not dict:
        return f"a {type(tree).__name__}"
    keys = [repr(key)[:40] for key in list(tree)[:10]]
    return f"{len(tree)} entries: {', '.join(keys)}" + (", ..." if len(tree) > len(keys) else "")


def _read_safetensors(path: str) -> Checkpoint:
    tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                dtype = file.get_slice(name).get_dtype()
                if dtype not in FLOATS + INTEGERS + BOOL:
                    raise CheckpointError(f"{path}: tensor {name[:100]!r} has the unsupported dtype {dtype}")
                tensors[name] = file.get_tensor(name)
            return Checkpoint(tensors, file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_index(path: str) -> Checkpoint:
    """All the tensors of a `.safetensors` file in parts, by the index beside them."""
    try:
        with open(path, encoding="utf-8") as file:
            names: dict[str, str] = json.load(file)["weight_map"]
        shards = sorted(set(names.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names, shards = {}, []
    if not shards or not all(isinstance(shard, str) for shard in shards):
        raise CheckpointError(f"{path}: this is no index of safetensors files")
    parts = {}
    for shard in shards:
        part = os.path.join(os.path.dirname(path), shard)
        if os.path.basename(shard) != shard:
            raise CheckpointError(f"{path}: {shard[:100]!r} is no name of a file beside it")
        if not os.path.isfile(part):
            raise CheckpointError(f"{path}: the part {shard} is missing")
        parts[shard] = _read_safetensors(part).tensors
    for name, shard in names.items():
        if name not in parts[shard]:
            raise CheckpointError(f"{path}: tensor {name[:100]!r} is not in {shard}")
    return Checkpoint({name: parts[shard][name] for name, shard in names.items()}, {})
