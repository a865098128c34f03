"""Signals on their way through a network: activations forward, gradients backward, block by block.

dL/dx_l is dL/dx_L times the product of all Jacobians between. So the gradient of a plain network of ReLUs
vanishes or explodes with the gain of its initialisation (He et al. 2015b, https://arxiv.org/abs/1502.01852,
where a gain of 1 keeps it), and explodes at any gain with batch norm (Yang et al. 2019,
https://arxiv.org/abs/1902.08129); shortcuts turn the product into sums. A residual network's activations grow
twofold with every block, or by one block's share where batch norm stands on the branch (De & Smith 2020,
https://arxiv.org/abs/2002.10444).
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flaxarch.depth.chain import Chain
from flaxarch.depth.scores import check_labels, cross_entropy


class Propagation(NamedTuple):
    """Of the arrays x_0, ..., x_n between the blocks of a network, over all images, places and channels."""

    mean: jax.Array  # (n + 1,)
    variance: jax.Array  # (n + 1,)
    gradient_norm: jax.Array  # (n + 1,), of the mean cross-entropy's gradient
    branch_share: jax.Array  # (n,): branch's variance over branch's and shortcut's; (0,) without shortcuts


@partial(jax.jit, static_argnames="chain")
def signal_propagation(chain: Chain, variables: Any, images: jax.Array, labels: jax.Array) -> Propagation:
    """Mean, variance and gradient norm of what each block reads, and of what the last one leaves.

    >>> chain = flaxarch.depth.Chain(model, (32, 32, 3), train=True)
    >>> found = signal_propagation(chain, variables, images, labels)
    >>> log_slope(found.gradient_norm[::-1] ** 2), PLAIN_BATCH_NORM_SLOPE    # per block, from the loss back

    At initialisation, or wherever batch norm has no statistics yet, the chain is to have `train=True`.
    """
    states = chain.states(variables, images)
    gradients = block_gradients(chain, variables, images, labels)
    shares = []
    for i, x in enumerate(states[:-1]):
        if chain.blocks[0].is_residual:
            branch = chain.branch(variables, x, i).var()
            shares.append(branch / (branch + chain.shortcut(variables, x, i).var()))
    return Propagation(
        jnp.stack([x.mean() for x in states]),
        jnp.stack([x.var() for x in states]),
        jnp.stack([jnp.linalg.norm(g.reshape(-1)) for g in gradients]),
        jnp.stack(shares) if shares else jnp.zeros(0),
    )


def block_gradients(chain: Chain, variables: Any, images: jax.Array, labels: jax.Array) -> list[jax.Array]:
    """[dL/dx_0, ..., dL/dx_n] of the mean cross-entropy: a product of Jacobians, block after block."""
    check_labels(images, labels)
    states = chain.states(variables, images)

    def loss(x: jax.Array) -> jax.Array:
        return cross_entropy(chain.run(variables, x, start=len(chain.blocks)), labels).mean()

    gradients = [jax.grad(loss)(states[-1])]
    for i in reversed(range(len(chain.blocks))):
        _, backward = jax.vjp(partial(chain.run, variables, start=i, stop=i + 1), states[i])
        gradients.append(*backward(gradients[-1]))
    return gradients[::-1]


def block_tangents(chain: Chain, variables: Any, images: jax.Array, tangent: jax.Array) -> list[jax.Array]:
    """[v_0, ..., v_n]: what a small change v_0 = `tangent` of x_0 becomes, v_{i+1} = J_i v_i.

    With random v_0 of unit variance, the mean of ||v_i||^2 is the squared Frobenius norm of the product of
    Jacobians. The inner product of v_i and dL/dx_i is the same at every i.
    """
    x, tangents = chain.run(variables, images, stop=0), [tangent]
    for i in range(len(chain.blocks)):
        run = partial(chain.run, variables, start=i, stop=i + 1)
        x, moved = jax.jvp(run, (x,), (tangents[-1],))
        tangents.append(moved)
    return tangents


def log_slope(values: ArrayLike) -> float:
    """Slope of ln(values) per step, by least squares: ln of the factor by which they grow."""
    given = np.asarray(values, np.float64)
    if given.ndim != 1 or len(given) < 2 or not (given > 0).all():
        raise ValueError("a slope needs two values or more, all above zero")
    return float(np.polyfit(np.arange(len(given)), np.log(given), 1)[0])


def plain_slope(gain: float) -> float:
    """Theory without batch norm: log-slope per layer of the squared gradient norm, and of E[x^2]: 2 ln(gain).

    Of ReLU layers whose weights have variance gain^2 * 2 / fan_in, when they are wide and no border counts.
    """
    return 2 * math.log(gain)


# Theory: log-slope per layer, from the loss back, of the squared gradient norm of plain ReLU networks with
# batch norm: ln(pi / (pi - 1)) in the limit of wide layers and large batches (Yang et al. 2019).
PLAIN_BATCH_NORM_SLOPE = math.log(math.pi / (math.pi - 1))


def residual_variance(num_blocks: ArrayLike, *, batch_norm: bool) -> np.ndarray:
    """Theory: variance behind l residual blocks, from 1: 2^l, or with batch norm on the branch l + 1."""
    num_blocks = np.asarray(num_blocks, np.float64)
    return num_blocks + 1 if batch_norm else 2.0**num_blocks


def branch_share(block: ArrayLike, *, batch_norm: bool) -> np.ndarray:
    """Theory: share of the l-th block's branch in the variance behind it: 1/2, with batch norm 1/(l + 1)."""
    block = np.asarray(block, np.float64)
    return 1 / (block + 1) if batch_norm else np.full(block.shape, 0.5)
