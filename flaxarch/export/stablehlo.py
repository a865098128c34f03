"""A network's evaluation as StableHLO, for JAX without the network's code: one file, any batch, any platform.

The file is a `.safetensors` one: the variables as `flaxarch.save` names them, and the program beside them, as
bytes under "stablehlo". The program takes the variables as arguments. As constants in it they would be read
into memory once more by each compilation, and stay what they are; so, other weights of the same network can
take their place, and whatever reads `.safetensors` sees them.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from jax import export, lax

from flaxarch.convert import CheckpointError, read_checkpoint
from flaxarch.convert.recognise import OWN
from flaxarch.convert.rules import slots
from flaxarch.export.description import InputShape, description, evaluation, needed, whole_or_not_at_all
from flaxarch.layers import Network
from flaxarch.ops import use_cpu_kernels, use_native_forms

PLATFORMS = ("cpu", "cuda", "tpu")
_PROGRAM = "stablehlo"
_STEP = 32  # pixels: networks whose Python asks whether a size is even often take any multiple of it


class StablehloFile(NamedTuple):
    """What was written."""

    input_shape: InputShape  # of the row, or as asked for
    image_size: str  # heights and widths that the program takes: "any from 32", "224x224", ...
    reason: str  # why it takes no others; "" where it does
    num_bytes: int


class Exported(NamedTuple):
    """What was read: evaluate(variables, images (N, H, W, C)) -> logits."""

    evaluate: Callable[[Mapping[str, Any], Any], jax.Array]
    variables: dict[str, np.ndarray]  # by name, views of the file
    metadata: dict[str, str]


def write_stablehlo(
    path: str | os.PathLike[str],
    model: Network,
    variables: Any,
    *,
    input_shape: InputShape | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> StablehloFile:
    """Write the network as it evaluates: images (N, H, W, C) -> float32 logits, for CPU, CUDA and TPU.

    Any number of images, and where the network's Python does not ask for them, any height and width; what
    came of it is in the result. A CPU is given the forms of convolutions that it runs fast, others `lax`'s.
    The metadata is that of `flaxarch.save`. The file appears whole or not at all.

    Args:
      path: of the file, ".stablehlo" by custom.
      model: the network, which computes in its `dtype`.
      variables: {"params": ..., "batch_stats": ...}.
      input_shape: height, width and channels of an image, which the program takes for certain; None: the
        row's.
      preprocessing: other values for fields of the row that say how pictures become images.
      classes: their names.

    Raises ModuleNotFoundError where the package flatbuffers is missing, which `jax.export` writes with.
    """
    needed("flatbuffers", "a StableHLO file")
    said, shape = description(model, input_shape, preprocessing, classes)
    evaluate, structure = evaluation(model), jax.tree.structure(variables)
    names = [slot.name for slot in slots(variables, OWN)]
    leaves = [np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype)) for x in jax.tree.leaves(variables)]
    arrays = dict(zip(names, leaves, strict=True))

    def in_form(native: bool, arrays: Mapping[str, Any], images: jax.Array) -> jax.Array:
        with use_native_forms(native), use_cpu_kernels(False):  # they are not where the file will run
            return evaluate(jax.tree.unflatten(structure, [arrays[name] for name in names]), images)

    def program(arrays: Mapping[str, Any], images: jax.Array) -> jax.Array:
        return lax.platform_dependent(
            arrays, images, cpu=partial(in_form, False), default=partial(in_form, True)
        )

    given = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}
    images, image_size, reason = _widest(program, given, shape)
    exported = export.export(jax.jit(program), platforms=PLATFORMS)(given, images)
    content = bytes(exported.serialize())
    said |= {"image_size": image_size, "sha256": hashlib.sha256(content).hexdigest()}
    tensors = {**arrays, _PROGRAM: np.frombuffer(content, np.uint8)}
    with whole_or_not_at_all(path) as part:
        part.write_bytes(safetensors.numpy.save(tensors, said))
    return StablehloFile(shape, image_size, reason, Path(path).stat().st_size)


def read_stablehlo(path: str | os.PathLike[str]) -> Exported:
    """The network in a file by `write_stablehlo`; its code is not needed.

    >>> network = read_stablehlo("resnet50.stablehlo")
    >>> logits = network.evaluate(network.variables, images)

    `evaluate` may be jitted and is then compiled once for each shape of images. Raises CheckpointError in one
    sentence where the file is none of these, cut off or damaged.
    """
    needed("flatbuffers", "a StableHLO file")
    checkpoint, what = read_checkpoint(path), Path(path).name
    arrays, metadata = dict(checkpoint.tensors), checkpoint.metadata
    content = arrays.pop(_PROGRAM, None)
    if content is None or "sha256" not in metadata:
        raise CheckpointError(
            f"{what} holds no StableHLO program: flaxarch export makes one from its weights"
        )
    data = bytearray(content.tobytes())
    if hashlib.sha256(data).hexdigest() != metadata["sha256"]:
        raise CheckpointError(f"{what} is damaged: its program is not the one that was written")
    exported = export.deserialize(data)
    return Exported(exported.call, arrays, metadata)


def _widest(program: Any, given: Any, shape: InputShape) -> tuple[jax.ShapeDtypeStruct, str, str]:
    """Images of as many sizes as the program can be traced for, in words, and why not of all."""
    height, width, channels = shape
    tries, reason = [], ""
    for step in (1, _STEP):
        least = max(min(height, width) // step * step, step)
        lows = [_STEP] if least == _STEP else [_STEP, least]
        tries += [(step, low) for low in lows if low <= least]
    for step, low in tries:
        if min(height, width) < low or height % step or width % step:
            continue
        spec = "N, H, W" if step == 1 else f"N, {step}*H, {step}*W"
        dims = export.symbolic_shape(spec, constraints=[f"H >= {low // step}", f"W >= {low // step}"])
        images = jax.ShapeDtypeStruct((*dims, channels), np.float32)
        try:
            jax.eval_shape(program, given, images)
        except Exception as error:  # of any kind: the network's Python takes a size for a number
            reason = reason or f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        words = f"any from {low}x{low}" if step == 1 else f"multiples of {step} from {low}x{low}"
        return images, words, reason if step > 1 else ""
    (count,) = export.symbolic_shape("N")
    return jax.ShapeDtypeStruct((count, *shape), np.float32), f"{height}x{width}", reason
