"""Ourselves: `functional` in inference, the trainer's own step in training."""

from functools import partial

import jax
import jax.numpy as jnp

import flaxarch
from benchmarks.speed.cases import SCANNED, Case
from benchmarks.speed.contenders import Prepared
from benchmarks.speed.contenders.on_jax import OPTIMIZER, filled, images_and_labels
from benchmarks.speed.contenders.on_jax import prepare as compiled
from flaxarch import ops
from train.step import init_state, make_train_step


def prepare(case: Case, path: str) -> Prepared:
    """Parameters are filled without a compilation of `init`."""
    del path
    ops.prepare_memory()  # as the commands do
    row = flaxarch.published(case.network)
    model = flaxarch.create(case.network, dtype=jnp.dtype(case.dtype))
    if case.network in SCANNED:
        model = model.clone(scan=True)  # pyright: ignore[reportCallIssue]
    images, labels = images_and_labels(case, row.input_shape, row.num_classes)
    state = filled(jax.eval_shape(partial(init_state, model, OPTIMIZER, 0, row.input_shape)))
    if case.mode == "inference":
        apply = flaxarch.functional(model).apply
        step = lambda v, x: apply(*v, x, train=False)[0]  # noqa: E731
        return compiled(case, step, (state.params, state.batch_stats), images)
    step = make_train_step(model, OPTIMIZER, seed=0, mean=row.mean, std=row.std)
    batch = {"image": images, "label": labels, "mask": jnp.ones(case.batch)}
    return compiled(case, step, state, batch)
