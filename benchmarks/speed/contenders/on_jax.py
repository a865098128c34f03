"""What contenders on JAX share."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders import Prepared
from train.metrics import count_flops

OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def images_and_labels(case: Case, shape: tuple[int, ...], classes: int) -> tuple[jax.Array, jax.Array]:
    """Random ones: float32 (N, H, W, C) within 0 to 1, and int32 (N,)."""
    rng = np.random.default_rng(0)
    images = rng.random((case.batch, *shape), np.float32)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, classes, case.batch), jnp.int32)


def filled(shapes: Any) -> Any:
    """Arrays of these shapes as initialisation makes them, without compiling it."""
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> jax.Array:
        name = str(getattr(path[-1], "key", getattr(path[-1], "name", "")))
        if name == "kernel":
            fan_in = np.prod(leaf.shape[-4:-1])  # blocks in a loop have theirs on an axis more
            value = rng.standard_normal(leaf.shape, np.float32) * np.sqrt(2 / fan_in)
        else:
            value = np.full(leaf.shape, name in ("scale", "var"), np.float32)
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def prepare(case: Case, step: Any, state: Any, inputs: Any) -> Prepared:
    """Compile step(state, inputs): logits in inference, (state, metrics) in training."""
    training = case.mode == "training"
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0 if training else ()).lower(state, inputs).compile()
    seconds = time.perf_counter() - start
    (device, *_) = jax.devices()

    def run(steps: int) -> None:
        nonlocal state
        result = None
        for _ in range(steps):
            result = compiled(state, inputs)
            if training:
                state, result = result
        jax.block_until_ready(result)

    def peak_bytes() -> float | None:
        return (device.memory_stats() or {}).get("peak_bytes_in_use")

    run(1)
    return Prepared(run, seconds, peak_bytes, count_flops(step, state, inputs), device.device_kind)


def linen_steps(
    model: Any, case: Case, images: jax.Array, labels: jax.Array, axis_name: str | None = None
) -> Prepared:
    """A linen network that is called with `train`, trained by the plainest step of Optax.

    `axis_name` is that of the devices over which its batch norm takes statistics, here one.
    """
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images[:1])
    variables = filled(shapes)
    if case.mode == "inference":
        return prepare(case, lambda v, x: model.apply(v, x, train=False), variables, images)

    def step(state: Any, inputs: Any) -> tuple[Any, jax.Array]:
        params, batch_stats, opt_state = state
        x, y = inputs

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": batch_stats}
            logits, moved = model.apply(variables, x, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), moved

        (loss, moved), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), moved["batch_stats"], opt_state), loss

    if axis_name is not None:
        mesh = jax.make_mesh((1,), (axis_name,))
        everywhere = jax.P()
        step = jax.shard_map(step, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)
    params = variables["params"]
    state = params, variables.get("batch_stats", {}), OPTIMIZER.init(params)
    return prepare(case, step, state, (images, labels))
