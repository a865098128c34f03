"""Runs Keras's networks, as `torch_library.py` does torch's. Needs Keras, on its JAX backend."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras  # pyright: ignore[reportMissingImports]
import numpy as np
from keras.src.backend.common import dtypes  # pyright: ignore[reportMissingImports]

from tests.golden import fill
from tests.golden.case import Case
from tests.golden.outputs import Evaluation, Training

jax.config.update("jax_enable_x64", True)
keras.config.set_floatx("float64")
# On backends other than TensorFlow's, Keras computes batch norm and means in float32 even so: not here.
dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"


def versions() -> str:
    return f"keras {keras.__version__}, jax {jax.__version__}"


def filled(case: Case, height: int, width: int) -> keras.Model:
    """The network in float64, with the formula's tensors, without dropout; its head takes one size."""
    keras.backend.clear_session()  # numbers in the names of layers start anew
    network = case.build(weights=None, input_shape=(height, width, case.channels), classifier_activation=None)
    for variable in network.weights:
        variable.assign(fill.tensor(variable.path, variable.shape))
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return network


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """All weights of a network, by their paths."""
    height, width = case.evaluation[0][1:3]
    return {variable.path: tuple(variable.shape) for variable in filled(case, height, width).weights}


def evaluate(case: Case, images: np.ndarray) -> Evaluation:
    """Logits, and the activations after each stage (N, C, H, W)."""
    network = filled(case, *images.shape[1:3])
    outputs = [network.output, *(network.get_layer(layer).output for layer in case.stages.values())]
    # a model of one output gives it bare
    logits, *maps = jax.tree.leaves(keras.Model(network.input, outputs)(images, training=False))
    maps = [np.asarray(x).transpose(0, 3, 1, 2) for x in maps]
    return Evaluation(np.asarray(logits), dict(zip(map(str, case.stages), maps, strict=True)))


def train(case: Case, images: np.ndarray, labels: np.ndarray) -> Training:
    """One backward pass in training mode: loss, gradients, and where batch norm's statistics have moved."""
    network = filled(case, *images.shape[1:3])
    fixed = [variable.value for variable in network.non_trainable_variables]

    def loss_fn(trainable):
        logits, moved = network.stateless_call(trainable, fixed, images, training=True)
        log_probs = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean(), moved

    trainable = [variable.value for variable in network.trainable_variables]
    (loss, moved), gradients = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(trainable)
    return Training(
        float(loss),
        {v.path: np.asarray(g) for v, g in zip(network.trainable_variables, gradients, strict=True)},
        {
            v.path: np.asarray(x)
            for v, x in zip(network.non_trainable_variables, moved, strict=True)
            if not v.path.endswith("seed_generator_state")  # of dropout
        },
    )
