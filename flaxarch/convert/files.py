"""Reads the named tensors of a checkpoint file, in whichever format its first bytes announce."""

import os
import re
import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from flaxarch.convert.archive import Archive
from flaxarch.convert.bounds import mapped, parse_json, shown
from flaxarch.convert.hdf5 import WEIGHTS_OF_ARCHIVE, read_hdf5, read_keras_archive
from flaxarch.convert.hub import metadata_in, weights_in
from flaxarch.convert.safetensors_file import read_safetensors
from flaxarch.convert.torch_file import read_torch
from flaxarch.convert.unpickle import CheckpointError

# Where training scripts put the state dict among their other entries; the first one present is taken.
# Averaged weights come last, so that they are read only where a file has no others.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params", "state_dict_ema", "model_ema")
MAX_WRAPPERS = 3  # one in the other

# What a wrapping module puts before every name: DataParallel, a trainer's class, torch.compile.
PREFIXES = re.compile(r"(module\.|model\.|_orig_mod\.)*")


class Checkpoint(NamedTuple):
    """What a file holds. Its arrays may be views of the file, which are read-only."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]  # of .safetensors; {} in other formats
    config: Mapping[str, Any] = MappingProxyType({})  # of the hub's folders, as `hub.metadata_in` has it


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a file of torch, of Keras (`.h5`, `.weights.h5`, `.keras`) or a `.safetensors` file.

    The first bytes tell which it is; the extension does not matter, but for a `.safetensors.index.json`,
    which brings all the files that it names. A folder is one of the Hugging Face hub's (`hub`).

    In a torch file, this finds the state dict, at the top or under one of `WRAPPERS`, and takes the prefixes
    that all names have off them. Other entries, such as the optimizer's state, are left out.
    """
    path = os.fspath(path)
    try:
        if not os.path.isdir(path):
            return _read(path, _first_bytes(path))
        file = weights_in(path)
        return _read(file, _first_bytes(file))._replace(config=metadata_in(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error.__cause__


def _read(path: str, head: bytes) -> Checkpoint:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Checkpoint(read_hdf5(mapped(path)), {})
    if head.lstrip().startswith(b"{") and path.endswith(".json"):
        return _read_index(path)
    if head[4:] == b"\0\0\0\0{":  # eight bytes give the size of the header, which is JSON
        return Checkpoint(*read_safetensors(mapped(path)))
    if head.startswith(b"PK\3\4"):
        archive = Archive(mapped(path))
        if WEIGHTS_OF_ARCHIVE in archive.entries:
            return Checkpoint(read_keras_archive(archive), {})
    tree = read_torch(path)
    tensors = _find_state_dict(tree, MAX_WRAPPERS)
    if tensors is None:
        raise CheckpointError(f"there is no state dict in this file, which holds {_contents(tree)}")
    prefix = PREFIXES.match(os.path.commonprefix(list(tensors)))  # noqa: RUF071  # by character, as meant
    start = prefix.end() if prefix else 0
    return Checkpoint({name[start:]: tensor for name, tensor in tensors.items()}, {})


def _first_bytes(path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            raise CheckpointError("this is a device, not a file")
        with open(path, "rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"the file cannot be read ({error.strerror})") from error
    if not head:
        raise CheckpointError("the file is empty")
    return head


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
    found = f"{len(tree)} entries: {', '.join(keys)}" + (", ..." if len(tree) > len(keys) else "")
    others = [repr(key)[:40] for key, value in tree.items() if not isinstance(value, np.ndarray)]
    return found + (f"; {others[0]} is no tensor" if 0 < len(others) < len(tree) else "")


def _read_index(path: str) -> Checkpoint:
    """All the tensors of a `.safetensors` file in parts, by the index beside them."""
    index = parse_json(mapped(path))
    names = index.get("weight_map") if type(index) is dict else None
    if type(names) is not dict or not names:
        raise CheckpointError("this is no index of safetensors files")
    for name, part in names.items():
        if type(part) is not str:
            raise CheckpointError(f"tensor {shown(name)} is placed in a {type(part).__name__}, no file")
    tensors: dict[str, np.ndarray] = {}
    for part in sorted(set(names.values())):
        for name, tensor in _read_part(os.path.dirname(path), part).items():
            if names.get(name) != part:
                raise CheckpointError(f"tensor {shown(name)} is in {shown(part)}, and not by the index")
            tensors[name] = tensor
    for name, part in names.items():
        if name not in tensors:
            raise CheckpointError(f"tensor {shown(name)} is not in {part}")
    return Checkpoint({name: tensors[name] for name in names}, {})


def _read_part(folder: str, part: str) -> dict[str, np.ndarray]:
    path = os.path.join(folder, part)
    if os.path.basename(part) != part:
        raise CheckpointError(f"{shown(part)} is no name of a file beside it")
    if not os.path.isfile(path):
        raise CheckpointError(f"the part {shown(part)} is missing")
    try:
        _first_bytes(path)
        return read_safetensors(mapped(path))[0]
    except CheckpointError as error:
        raise CheckpointError(f"{part}: {error}") from error.__cause__
