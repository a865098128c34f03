"""Writes files of Keras applications by Keras's own functions. Needs Keras, on its JAX backend."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import shutil
from pathlib import Path

import h5py
import keras  # pyright: ignore[reportMissingImports]
import numpy as np
from keras.src.legacy.saving import legacy_h5_format  # pyright: ignore[reportMissingImports]

from benchmarks.weights import scratch
from benchmarks.weights.pairs import Pair, pairs
from benchmarks.weights.scratch import Written
from tests.golden import keras_library


def _build(pair: Pair, dtype: str) -> keras.Model:
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)  # the first layer that was built has fixed it otherwise
    shape = (*pair.size[1:], pair.case.channels)
    return pair.case.build(weights=None, input_shape=shape, classifier_activation=None)


def _fill(network: keras.Model) -> keras.Model:
    """The formula's numbers, under the names that the layers have in a fresh session."""
    shapes = {variable.path: tuple(variable.shape) for variable in network.weights}
    network.set_weights(list(scratch.values(shapes).values()))
    return network


def _legacy_weights(network: keras.Model, path: Path) -> None:
    """As `save_weights` wrote before Keras 3; its code is still in Keras, for `load_weights`."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)


def write(pair: Pair, directory: Path) -> None:
    """All files of one network, and its logits."""
    folder = scratch.folder_of(directory, pair)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    keras.backend.clear_session()  # numbers in the names of layers start anew
    network = _fill(_build(pair, "float32"))
    weights = network.get_weights()
    files = {".keras": Written("model.keras")}
    network.save(folder / "model.keras")
    if pair.in_every_format:
        network.save_weights(folder / "model.weights.h5")
        network.save(folder / "model.h5")
        _legacy_weights(network, folder / "weights.h5")
        second = _build(pair, "float32")  # numbers go on from the first one's
        second.set_weights(weights)
        second.save_weights(folder / "second.weights.h5")
        _legacy_weights(second, folder / "second.h5")
        files |= {
            ".weights.h5": Written("model.weights.h5"),
            ".h5 of a whole model": Written("model.h5"),
            ".h5 of weights, as before Keras 3": Written("weights.h5"),
            ".weights.h5, second network of its session": Written("second.weights.h5"),
            ".h5 of weights, second network of its session": Written("second.h5"),
        }
    wide = _build(pair, "float64")
    wide.set_weights([x.astype(np.float64) for x in weights])
    logits = np.asarray(wide(scratch.images_of(pair), training=False))
    if {logits.dtype, *(np.dtype(x.dtype) for x in wide.weights)} != {np.dtype(np.float64)}:
        raise TypeError(f"{pair.name} was not run in float64")
    scratch.describe(folder, keras_library.versions(), files, {"float32": logits})


def main() -> None:
    """Write the networks that the command line asks for, or all of Keras's in every format."""
    args = scratch.arguments(__doc__)
    for name, pair in pairs().items():
        is_keras = pair.library == "Keras"
        if name in args.names or (not args.names and is_keras and pair.in_every_format):
            write(pair, args.directory)
            print(name, flush=True)


if __name__ == "__main__":
    main()
