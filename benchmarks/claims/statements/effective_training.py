"""Training on paths of the effective length alone: a share of the blocks, drawn anew for each batch."""

from functools import partial
from typing import Literal

import jax
from flax import linen as nn

from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import FULL as FULL_SCALE
from benchmarks.claims.networks import SMALL, Scale, accuracy, images, logits, trained
from flaxarch.depth import keep_random


class Sampled(nn.Module):
    """A residual network of which a batch in training meets `num_kept` blocks; all of them in evaluation."""

    network: nn.Module
    num_blocks: int
    num_kept: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        if not train:
            return self.network(images, train=False)  # pyright: ignore[reportCallIssue]
        gates = keep_random(self.make_rng("gates"), self.num_blocks, self.num_kept, 1)[0]
        return self.network(images, train=True, gates=gates)  # pyright: ignore[reportCallIssue]


def _measure(seed: int, places: Places, *, scale: Scale, depth: int, num_kept: int) -> Measured:
    """Test errors after both trainings."""
    whole = scale.resnet(depth)
    sampled = Sampled(whole, (depth - 2) // 2, num_kept)
    x, labels = images(places, scale).test_set()
    errors, curves = {}, {}
    for name, model in (("all blocks", whole), ("some", sampled)):
        net = trained(model, seed, places, scale)
        errors[f"error, {name}"] = 100 - accuracy(logits(model, net.variables, x), labels)
        curves[name] = list(net.losses.reshape(50, -1).mean(axis=1))
    return Measured(errors, curves)


def _claim(
    scale: Scale, depth: int, num_kept: int, margin: float, seeds: int, tier: Literal["C", "G"]
) -> Claim:
    num_blocks = (depth - 2) // 2
    return Claim(
        "Training on paths of the effective length alone is as good as training on all of them.",
        "Veit et al. 2016, Sec. 5 (training on effective paths: 5.96 % against 6.10 %)",
        f"ResNet-{depth}, of whose {num_blocks} blocks each batch in training meets {num_kept}, drawn anew: "
        f"a path has {num_kept / 2} on average; tested whole. The paper's: 23 of 54. {scale.in_words}",
        partial(_measure, scale=scale, depth=depth, num_kept=num_kept),
        (Check("error, some", -margin, margin, minus="error, all blocks"),),
        seeds=seeds,
        tier=tier,
        needs=("cifar10",),
        calibrated="the margin of equivalence.",
        x="fiftieth of the training",
        y="training loss, nats",
    )


CLAIM = _claim(SMALL, 56, 12, 3.0, 3, "C")
FULL = _claim(FULL_SCALE, 110, 23, 0.5, 5, "G")
