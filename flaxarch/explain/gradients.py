"""Gradients of a class's logit with respect to the image: plain, guided, and integrated."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxarch.explain.guided import guide
from flaxarch.explain.maps import class_logits, logits
from flaxarch.explain.program import Array, Program, Rule, trace


def _gradient(
    program: Program, variables: Any, images: jax.Array, classes: jax.Array | None, rule: Rule | None
) -> jax.Array:
    def total(images: jax.Array) -> jax.Array:
        (found,) = program.evaluate(variables, images, [program.logits], rule=rule)
        return class_logits(found, classes).sum()

    return jax.grad(total)(images)


@partial(jax.jit, static_argnames="model")
def gradient(
    model: nn.Module, variables: Any, images: jax.Array, classes: jax.Array | None = None
) -> jax.Array:
    """The gradient of a class's logit with respect to the image: (N, H, W, C).

    Simonyan, Vedaldi & Zisserman 2014, Sec. 3, https://arxiv.org/abs/1312.6034, who show its absolute value,
    the largest of the channels. Logits per unit of the images as the network reads them. Costs two forward
    passes: no parameter's gradient is taken.

    Args:
      model: any network. Of one for segmentation, the class's logit is its mean over the image.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network reads them.
      classes: (N,) whole numbers; None: the likeliest class of each image.
    """
    return _gradient(trace(model, variables, images), variables, images, classes, None)


@partial(jax.jit, static_argnames="model")
def guided_backprop(
    model: nn.Module, variables: Any, images: jax.Array, classes: jax.Array | None = None
) -> jax.Array:
    """Guided backpropagation: (N, H, W, C), as `gradient`. Two forward passes.

    Springenberg et al. 2015, Sec. 3.4, https://arxiv.org/abs/1412.6806: backwards, every ReLU lets through
    only what is positive, where its input is. So it does in a ReLU6 and wherever else the program has
    max(x, 0) or a clamp from 0 on. All else, as hard-swish, hard-sigmoid, GELU, tanh or max-pooling, keeps
    its own gradient: the rule is told of ReLUs alone. A leaky ReLU written by `where` is no ReLU here.
    It shows edges more than what a network has learned: Adebayo et al. 2018, https://arxiv.org/abs/1810.03292.

    Raises ValueError where the network has no ReLU to guide, or has one in a loop.
    """
    program = trace(model, variables, images)
    return _gradient(program, variables, images, classes, guide(program.closed, program.network))


def integrated_gradients(
    model: nn.Module,
    variables: Any,
    images: Array,
    classes: Array | None = None,
    *,
    baseline: Any = 0.0,
    steps: int = 32,
    batch_size: int = 8,
) -> jax.Array:
    """Integrated gradients: (N, H, W, C), what each value of the image adds to a class's logit.

    Sundararajan, Taly & Yan 2017, Sec. 3, https://arxiv.org/abs/1703.01365: the difference to the baseline,
    times the mean gradient on the straight line from there, by the midpoint rule. They sum to the difference
    of the logits of image and baseline (completeness), up to the rule's error. Two forward passes a step.

    Args:
      model: any network. Of one for segmentation, the class's logit is its mean over the image.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network reads them.
      classes: (N,) whole numbers; None: the likeliest class of each image.
      baseline: of the images' shape, or of one that broadcasts to it. The paper's is a black image; zero is
        the mean colour where the network's images are normalised.
      steps: points on the line.
      batch_size: points that go through the network together, of all images.
    """
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size are {steps} and {batch_size}: both have to be at least 1")
    if classes is None:
        classes = logits(model, variables, images).argmax(-1)
    images, classes = jnp.asarray(images), jnp.asarray(classes)
    start = np.broadcast_to(np.asarray(baseline, images.dtype), images.shape)
    size, parts = min(batch_size, steps), []
    # Gradients of convolutions are slow inside of a compiled loop on CPU: the loop is Python's.
    for first in range(0, steps, size):
        points = np.arange(first, first + size)
        shares = ((points + 0.5) / steps).astype(images.dtype)
        weights = (points < steps).astype(images.dtype) / steps  # the last batch is filled up
        parts.append(_part_of_line(model, variables, start, images, classes, shares, weights))
    return sum(parts[1:], parts[0])


@partial(jax.jit, static_argnames="model")
def _part_of_line(
    model: nn.Module,
    variables: Any,
    start: jax.Array,
    end: jax.Array,
    classes: jax.Array,
    shares: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """end - start, times the sum of `weights` times the gradients at start + shares * (end - start)."""
    size, axes = len(shares), (-1, 1, 1, 1, 1)
    points = start[None] + shares.reshape(axes) * (end - start)[None]
    points = points.reshape(size * len(end), *end.shape[1:])
    found = _gradient(trace(model, variables, points), variables, points, jnp.tile(classes, size), None)
    return (end - start) * (weights.reshape(axes) * found.reshape(size, *end.shape)).sum(0)
