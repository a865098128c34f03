"""What a layer gives, and which places of a map speak for a class: activations, CAM, Grad-CAM."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.explain.program import Program, trace


def layers(model: nn.Module, input_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The layers that can be named, and what each gives of one image (H, W, C), in order of execution.

    A layer is a module, by its path as `flaxarch summary` shows it: a block "layer1_0", a convolution in it
    "layer1_0/conv1". What lies between modules, as a pool or an activation, has no name of its own.
    """
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    return {name: var.aval.shape[1:] for name, var in trace(model, variables, images).layers.items()}


@partial(jax.jit, static_argnames=("model", "names"))
def activations(
    model: nn.Module, variables: Any, images: jax.Array, names: tuple[str, ...] | None = None
) -> dict[str, jax.Array]:
    """What layers give: {name: (N, H', W', C')}, (N, C') of dense ones. One forward pass.

    >>> activations(model, variables, images, ("layer1_0/conv1", "layer4_1"))

    Args:
      model: any network, a plain linen module.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network reads them.
      names: of layers, as `layers` has them; None: all. Of a module that runs again and again, as a shared
        field of a differential equation, the last run.

    Raises ValueError for a name that no layer has.
    """
    program = trace(model, variables, images)
    names = tuple(program.layers) if names is None else names
    found = program.evaluate(variables, images, [program.layer(name) for name in names])
    return dict(zip(names, found, strict=True))


@partial(jax.jit, static_argnames=("model", "layer"))
def feature_map(model: nn.Module, variables: Any, images: jax.Array, layer: str | None = None) -> jax.Array:
    """What one layer gives: (N, H', W', C'), or (N, C'). One forward pass.

    `layer` is a name as `layers` has them; None is the last feature map, the array with height and width that
    is nearest to the logits, behind whatever stands after the last module: what `cam` and `grad_cam` read.
    """
    program = trace(model, variables, images)
    return program.evaluate(variables, images, [program.layer(layer)])[0]


@partial(jax.jit, static_argnames="model")
def logits(model: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    """What the network says of each image: (N, num_classes). One forward pass.

    Maps of logits, as of a U-Net, are averaged over their places.
    """
    program = trace(model, variables, images)
    return per_image(program.evaluate(variables, images, [program.logits])[0])


@partial(jax.jit, static_argnames="model")
def cam(model: nn.Module, variables: Any, images: jax.Array, classes: jax.Array | None = None) -> jax.Array:
    """Class activation maps: (N, H', W'), what each place of the last feature map adds to the class's logit.

    Zhou et al. 2016, Sec. 2, https://arxiv.org/abs/1512.04150: for networks whose logits are linear in the
    mean of their last feature map A, M = sum_k w_k A_k. Here M is over the number of places, in logits, so
    that a map's sum is the class's logit less its bias. One forward pass, and the head backwards.

    Args:
      model: the network.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network reads them.
      classes: (N,) whole numbers; None: the likeliest class of each image.

    Raises ValueError where the head is another one; `grad_cam` takes those.
    """
    program = trace(model, variables, images)
    last = program.layer(None)
    if not program.is_linear_in_the_mean(last):
        raise ValueError(
            f"{program.network} has no class activation maps: its logits are not linear in the mean of its "
            f"last feature map; Grad-CAM asks for no such head"
        )
    features, gradients = map_and_gradient(program, variables, images, last, classes)
    return (features * gradients).sum(-1)


@partial(jax.jit, static_argnames=("model", "layer"))
def grad_cam(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    classes: jax.Array | None = None,
    layer: str | None = None,
) -> jax.Array:
    """Grad-CAM: (N, H', W'), where a layer's features speak for a class; not below zero, in logits.

    Selvaraju et al. 2017, Sec. 3, https://arxiv.org/abs/1610.02391: ReLU(sum_k alpha_k A_k), with alpha_k the
    mean over places of the gradient of the class's logit. It is the positive part of `cam` where the head is
    linear in the mean of A. One forward pass, and backwards as far as the layer: two at most.

    Args:
      model: any network. Of one for segmentation, the class's logit is its mean over the image.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network reads them.
      classes: (N,) whole numbers; None: the likeliest class of each image.
      layer: a name as `layers` has them; None: the last feature map, the array with height and width that is
        nearest to the logits.

    Raises ValueError where there is no such layer, or where it has no height and width.
    """
    program = trace(model, variables, images)
    features, gradients = map_and_gradient(program, variables, images, program.feature_map(layer), classes)
    alpha = gradients.mean(axis=(1, 2), keepdims=True)
    return jax.nn.relu((alpha * features).sum(-1))


def per_image(logits: jax.Array) -> jax.Array:
    """(N, num_classes), of maps of logits their mean, float32 or wider."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return logits.mean(axis=tuple(range(1, logits.ndim - 1)))


def class_logits(logits: jax.Array, classes: jax.Array | None) -> jax.Array:
    """The logit of its class for each image, (N,); of the likeliest class where `classes` is None."""
    logits = per_image(logits)
    if classes is None:
        classes = jax.lax.stop_gradient(logits).argmax(-1)
    return jnp.take_along_axis(logits, jnp.asarray(classes)[:, None], axis=1)[:, 0]


def map_and_gradient(
    program: Program, variables: Any, images: jax.Array, var: Any, classes: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """A feature map (N, H', W', C'), and the gradient of each image's class's logit with respect to it."""

    def total(offset: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = program.evaluate(
            variables, images, [var, program.logits], changed={var: lambda value: value + offset}
        )
        return class_logits(found[1], classes).sum(), found[0]

    gradient, features = jax.grad(total, has_aux=True)(jnp.zeros(var.aval.shape, var.aval.dtype))
    wide = jnp.promote_types(features.dtype, jnp.float32)
    return features.astype(wide), gradient.astype(wide)
