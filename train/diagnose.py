"""Where a number stops being finite: the first layer, in the order in which a step runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.depth.trunk import unrolled
from flaxarch.loops import unstack_blocks
from train.losses import cross_entropy_sum
from train.mix import Mix, mix_batch
from train.step import Batch, TrainState, step_keys


def first_nonfinite(
    model: nn.Module,
    state: TrainState,
    batch: Batch,
    normalise: Callable[[Any], jax.Array],
    seed: int,
    mix: Mix | None = None,
) -> str:
    """What is not finite in the step that follows `state`, in words: "the output of layer2_0/conv1".

    Looked for in the parameters and statistics, then in the outputs of modules, as training has them, then in
    the gradients of the parameters. Of blocks in a loop each is looked at by itself.
    """
    model = unrolled(model)
    state = unstack_blocks(state)
    for what, tree in (("the parameter", state.params), ("the batch statistics", state.batch_stats)):
        if (path := _first(tree)) is not None:
            return f"{what} {path}"
    gates_key, dropout_key, mix_key = step_keys(seed, state.step)
    if mix is not None:
        batch = mix_batch(mix, batch, mix_key)
    names: list[str] = []

    def loss_and_outputs(params: Any) -> tuple[jax.Array, list[jax.Array]]:
        finite: list[jax.Array] = []
        names.clear()

        def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            outputs = call(*args, **kwargs)
            if context.method_name == "__call__":
                names.append("/".join(context.module.path) or "the network")
                finite.append(_is_finite(outputs))
            return outputs

        with nn.intercept_methods(note):
            outputs, _ = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                normalise(batch["image"]),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key, "gates": gates_key},
            )
        logits: Any = outputs[0] if isinstance(outputs, tuple) else outputs
        return cross_entropy_sum(logits, batch["label"], batch["mask"]), finite

    (_, finite), grads = jax.jit(jax.value_and_grad(loss_and_outputs, has_aux=True))(state.params)
    for name, is_finite in zip(names, finite, strict=True):
        if not is_finite:
            return f"the output of {name}"
    path = _first(grads)
    return "the loss" if path is None else f"the gradient of {path}"


def _is_finite(outputs: Any) -> jax.Array:
    arrays = [x for x in jax.tree.leaves(outputs) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.array([jnp.isfinite(x).all() for x in arrays], bool).all()


def _first(tree: Any) -> str | None:
    """The path of the first leaf that is not finite."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not bool(jnp.isfinite(leaf).all()):
            return "/".join(key.key for key in path)
    return None
