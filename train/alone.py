"""What one process of several saves by itself when it cannot make the next step: alone-STEP.safetensors.

The others have begun that step. They wait for this process in a collective, with a state that they have given
away, so that they cannot save, and Orbax saves only with all of them. But after the step before, every
process has the same whole state, unless it is sharded; so this one's is the run's.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

_NAME = "alone-{}.safetensors"


class CheckpointError(RuntimeError):
    """Checkpoints that cannot be continued from. The message is one sentence."""


def newest_alone(run_dir: Path) -> int | None:
    """The step of the newest such file; None: there is none."""
    steps = [path.stem.removeprefix("alone-") for path in run_dir.glob(_NAME.format("*"))]
    return max((int(step) for step in steps if step.isdecimal()), default=None)


def write_alone(run_dir: Path, step: int, tree: Any, progress: dict[str, Any]) -> None:
    """Writes `tree`, whole or not at all; nothing where this process has not the whole of it.

    Of several processes that write the same step, each may be the last. Raises OSError or SafetensorError.
    """
    if not all(x.is_fully_replicated for x in jax.tree.leaves(tree)):
        return
    path = run_dir / _NAME.format(step)
    partial = path.with_name(f"{path.name}.{jax.process_index()}.part")
    arrays = {_key(place): np.asarray(x, order="C") for place, x in jax.tree.leaves_with_path(tree)}
    safetensors.numpy.save_file(arrays, partial, {"progress": json.dumps(progress)})
    partial.replace(path)


def read_alone(run_dir: Path, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    """The tree, of NumPy arrays, and the progress. Raises CheckpointError."""
    path = run_dir / _NAME.format(step)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            progress = json.loads(file.metadata()["progress"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        return jax.tree.map_with_path(lambda place, _: arrays[_key(place)], like), progress
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); without that file the run continues from the last checkpoint"
        ) from error


def remove_alone(run_dir: Path, newest: int) -> None:
    """Removes the files of the `newest` checkpoint's step and of those before."""
    for path in run_dir.glob(_NAME.format("*")):
        step = path.stem.removeprefix("alone-")
        if step.isdecimal() and int(step) <= newest:
            path.unlink(missing_ok=True)


def remove_half_written(run_dir: Path) -> None:
    """Removes what a kill left of a file; to be called while no process writes one."""
    for path in run_dir.glob(f"{_NAME.format('*')}.*.part"):
        path.unlink(missing_ok=True)


def _key(place: Any) -> str:
    return jax.tree_util.keystr(place)
