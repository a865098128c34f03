"""Folders as the Hugging Face hub has them: weights beside a `config.json`. Nothing is fetched.

    model, variables = flaxarch.load("~/.cache/huggingface/hub/models--timm--resnet50.a1_in1k")

A folder is a snapshot (the files themselves), or a cache entry, whose `refs/main` names one of its
`snapshots`. The configuration is as timm writes it: the architecture decides between rows that the tensors
both fit, and `pretrained_cfg` tells how pictures are made.
"""

import math
import os
from typing import Any

from flaxarch.convert.bounds import mapped, parse_json
from flaxarch.convert.unpickle import CheckpointError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_CONFIG = "config.json"

# timm's architectures of equal tensors, and the rows that they are.
_ROWS = {
    f"{prefix}mobilenetv3_{size}_{width}": f"mobilenet_v3_{size}{row}"
    for size in ("small", "large")
    for prefix, width, row in (
        ("", "075", "_075"),
        ("", "100", "_timm"),
        ("tf_", "075", "_075_keras"),
        ("tf_", "100", "_keras"),
        ("tf_", "minimal_100", "_minimalistic_keras"),
    )
}
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def weights_in(folder: str) -> str:
    """The path of the weights in a folder of the hub's; CheckpointError where there is none."""
    place = _snapshot(folder)
    for name in WEIGHTS:
        if os.path.exists(path := os.path.join(place, name)):  # False, too, for a link to nothing
            return path
    links = [name for name in WEIGHTS if os.path.islink(os.path.join(place, name))]
    if links:
        raise CheckpointError(f"{links[0]} is a link to a file that is not there: download it again")
    raise CheckpointError(f"this folder has none of {', '.join(WEIGHTS)}")


def metadata_in(folder: str) -> dict[str, Any]:
    """What `config.json` tells: "architecture", its "row", "preprocessing", "classes", or fewer of them."""
    path = os.path.join(_snapshot(folder), _CONFIG)
    if not os.path.isfile(path) or not os.path.getsize(path):
        return {}
    try:
        config = parse_json(mapped(path))
    except CheckpointError as error:
        raise CheckpointError(f"{_CONFIG}: {error}") from error
    if type(config) is not dict:
        raise CheckpointError(f"{_CONFIG} is a {type(config).__name__}, no object")
    of_weights = config.get("pretrained_cfg", config)
    of_weights = of_weights if type(of_weights) is dict else {}
    found: dict[str, Any] = {"preprocessing": _preprocessing(of_weights)}
    if type(config.get("architecture")) is str:
        found["architecture"] = config["architecture"]
        found["row"] = _ROWS.get(config["architecture"], config["architecture"])
    names = config.get("label_names", of_weights.get("label_names"))
    if type(names) is list and all(type(name) is str for name in names):
        found["classes"] = names
    return {key: value for key, value in found.items() if value}


def _snapshot(folder: str) -> str:
    """The folder of the files."""
    snapshots = os.path.join(folder, "snapshots")
    if not os.path.isdir(snapshots):
        return folder
    revisions = sorted(os.listdir(snapshots))
    try:
        with open(os.path.join(folder, "refs", "main"), encoding="ascii") as file:
            main = file.read(100).strip()
    except (OSError, UnicodeDecodeError):
        main = ""
    if main in revisions:
        return os.path.join(snapshots, main)
    if len(revisions) == 1:
        return os.path.join(snapshots, revisions[0])
    found = f"{len(revisions)} snapshots, and refs/main names none of them" if revisions else "no snapshot"
    raise CheckpointError(f"this folder of the hub's cache has {found}: give the folder of one")


def _preprocessing(config: dict[str, Any]) -> dict[str, Any]:
    """timm's words as fields of a row; what is absent, or no value of that kind, is left to the row."""
    found: dict[str, Any] = {}
    for key in ("mean", "std"):
        values = config.get(key)
        if type(values) is list and values and all(_is_number(value) for value in values):
            found[key] = tuple(map(float, values))
    if config.get("interpolation") in _INTERPOLATIONS:
        found["interpolation"] = config["interpolation"]
    size, share = config.get("input_size"), config.get("crop_pct") or 0
    if type(size) is list and len(size) == 3 and all(type(n) is int and 0 < n < 10_000 for n in size):
        found["input_shape"] = (*size[1:], size[0])
        if _is_number(share) and 0 < share <= 1:
            found["resize"] = math.floor(min(size[1:]) / share)  # as timm rounds
    return found


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
