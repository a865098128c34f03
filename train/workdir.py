"""The folder of a run: whose it is, and what is written there so that no kill leaves half of it."""

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from train.config import Config, ConfigError

# May differ when a run is continued, for they change neither a parameter nor a row of metrics.
_FREE = (
    "workdir",
    "workers",
    "save_every",
    "keep_best",
    "compilation_cache",
    "tensorboard",
    "profile",
    "coordinator",
    "num_processes",
    "process_id",
    "distributed",
)


class WorkdirError(OSError):
    """The folder of a run cannot be written to. The message is one clause."""


def claim_workdir(config: Config, *, write: bool = True) -> None:
    """Makes `config.run_dir` this run's folder, with its config.json in it, or finds that it is already.

    Of several processes one writes.

    Raises:
        ConfigError: the folder holds another run. Nothing in it is changed then.
    """
    path = config.run_dir / "config.json"
    mine = _as_json(config)
    if path.exists():
        differing = _differences(_read_json(path), mine)
        if differing:
            raise ConfigError(
                f"{config.run_dir} holds a run of another configuration: {'; '.join(differing)}. "
                "Choose another workdir, or continue that run with its own flags"
            )
        return
    taken = [name for name in ("metrics.jsonl", "last", "best") if (config.run_dir / name).exists()]
    if taken:
        raise ConfigError(
            f"{config.run_dir} holds {', '.join(taken)} but no config.json to tell which run they are of; "
            "choose another workdir"
        )
    if not write:
        return
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(mine, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"workdir {config.run_dir} cannot be written: {reason_of(error)}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within this, an OSError becomes a WorkdirError that names `path`."""
    try:
        yield
    except OSError as error:
        raise WorkdirError(f"{path} cannot be written: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """What the system says was wrong, where it is in an error at all: "No space left on device"."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = str(error)
    if number := re.search(r"os_error_code='(\d+)'|os error (\d+)", words):  # TensorStore's; Rust's
        return os.strerror(int(number[1] or number[2]))
    return (words.strip() or repr(error)).splitlines()[0]


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that, killed at any instant, it holds either its old text or all of the new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _as_json(config: Config) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    del fields["workdir"]  # so that the folder can be moved
    return json.loads(json.dumps(fields, default=str))  # as it comes back: no paths, no tuples


def _read_json(path: Path) -> dict[str, Any]:
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{path} is not JSON, so that the run there cannot be recognised: {error}"
        ) from error
    if not isinstance(theirs, dict):
        raise ConfigError(f"{path} does not hold a configuration; choose another workdir")
    return theirs


def _differences(theirs: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """A clause for each field that is not free and differs; a field that one side lacks has its default."""
    defaults = _as_json(Config())
    words = []
    for name in sorted((theirs.keys() | mine.keys()) - set(_FREE)):
        there, here = theirs.get(name, defaults.get(name)), mine.get(name)
        if there != here:
            words.append(f"{name} is {there} there and {here} here")
    return words
