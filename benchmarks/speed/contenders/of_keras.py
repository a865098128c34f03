"""Applications of Keras 3 on JAX, by stateless calls as in Keras's guide to training loops in JAX."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras  # pyright: ignore[reportMissingImports]

from benchmarks.speed.cases import NETWORKS, Case
from benchmarks.speed.contenders import Prepared
from benchmarks.speed.contenders.on_jax import images_and_labels
from benchmarks.speed.contenders.on_jax import prepare as compiled


def prepare(case: Case, path: str) -> Prepared:
    """bfloat16 is the policy mixed_bfloat16."""
    del path
    if case.dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    network = getattr(keras.applications, NETWORKS[case.network].keras or "")
    model = network(weights=None, classifier_activation=None)
    images, labels = images_and_labels(case, model.input_shape[1:], 1000)
    trained = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    if case.mode == "inference":
        infer = lambda v, x: model.stateless_call(*v, x, training=False)[0]  # noqa: E731
        return compiled(case, infer, (trained, others), images)

    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(state, inputs):
        trained, others, slots = state
        x, y = inputs

        def loss_fn(trained):
            logits, moved = model.stateless_call(trained, others, x, training=True)
            return loss(y, logits), moved

        (value, others), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        trained, slots = optimizer.stateless_apply(slots, grads, trained)
        return (trained, others, slots), value

    slots = [v.value for v in optimizer.variables]
    return compiled(case, step, (trained, others, slots), (images, labels))
