"""Inception-ResNet v1 and v2: Szegedy et al., AAAI 2017, https://arxiv.org/abs/1602.07261.

The released forms differ from the paper. `inception_resnet_v2`, timm's, and `inception_resnet_v2_keras` are
what the authors released: a stem like Inception v3's with one Inception module, 10, 20 and 10 blocks of 320,
1088 and 2080 features, the very last without scale and ReLU, and a 1x1 convolution to 1536 features before
the head. `inception_resnet_v2_paper` is the figures' network: Inception v4's stem, 5, 10 and 5 blocks, 384,
1152 and 2144 features (the figures print 1154 and 2048 beside convolutions whose outputs must be added to
1152 and 2144), and `inception_resnet_v2_paper_10_20_10` the same with the released number of blocks.
`inception_resnet_v1` exists in the paper only; the network of face recognition that goes by its name has one
more block and a narrow layer before the head. Keras's batch norm has no scale, and momentum 0.99.

A branch is scaled before it is added (Sec. 3.3, "around 0.1 to 0.3"); 0.17, 0.1 and 0.2 are the released
form's. A gate multiplies the scaled branch: x + g * s * F(x).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Conventions, ConvNorm, ModuleDef, Network, check_images, tap
from flaxarch.models import inception_v4
from flaxarch.models.inception_v3 import KERAS_INCEPTION
from flaxarch.models.inception_v4 import TIMM_INCEPTION, ReductionA, branch
from flaxarch.ops import avg_pool, global_avg_pool, max_pool
from flaxarch.residual import block_gates, residual
from flaxarch.variant import KERAS_PICTURES, Variant

Branches = tuple[tuple[int, ...], ...]  # features of each branch's layers
Kernels = tuple[tuple[int, int], ...]  # of a branch's first, second, third layer
A: Kernels = ((1, 1), (3, 3), (3, 3))
B: Kernels = ((1, 1), (1, 7), (7, 1))
C: Kernels = ((1, 1), (1, 3), (3, 1))


class ResidualBlock(nn.Module):
    """Inception-ResNet-A, -B or -C (Fig. 10, 11, 13 and 16, 17, 19): (N, H, W, C) -> (N, H, W, C)."""

    kernels: Kernels
    branches: Branches
    scale: float  # of the branch
    conv: ModuleDef
    unit: ModuleDef  # convolution, batch norm, ReLU
    is_last: bool = False  # no ReLU after the sum

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        y = [
            branch(x, self.unit, f"branch{i}", *zip(features, self.kernels, strict=False))
            for i, features in enumerate(self.branches)
        ]
        y = jnp.concatenate(y, axis=-1)
        y = self.conv(x.shape[-1], (1, 1), use_bias=True, name="conv2d")(y)  # linear: no batch norm
        x = residual(x, self.scale * y, gate)
        return x if self.is_last else nn.relu(x)


class ReductionB(nn.Module):
    """Reduction-B (Fig. 12 and 18), 17x17 to 8x8: (N, H, W, C) -> (N, H', W', C + 384 + m + n)."""

    branches: Branches
    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = [
            branch(x, self.unit, f"branch{i}", *zip(features, A, strict=False), strides=2)
            for i, features in enumerate(self.branches)
        ]
        return jnp.concatenate([*y, max_pool(x, (3, 3), (2, 2))], axis=-1)


def _first_layers(network: nn.Module, images: jax.Array, unit: ModuleDef) -> jax.Array:
    """What the stems but Inception-v4's begin with (Fig. 14): (N, H, W, C) -> (N, H / 4, W / 4, 192)."""
    x = unit(32, (3, 3), strides=2, name="conv2d_1a")(images)
    x = unit(32, (3, 3), name="conv2d_2a")(x)
    x = unit(64, (3, 3), padding="SAME", name="conv2d_2b")(x)
    tap(network, 2, x)
    x = max_pool(x, (3, 3), (2, 2))
    x = unit(80, (1, 1), name="conv2d_3b")(x)
    x = unit(192, (3, 3), name="conv2d_4a")(x)
    tap(network, 4, x)
    return x


def stem_v1(network: nn.Module, images: jax.Array, unit: ModuleDef) -> jax.Array:
    """Stem of Inception-ResNet-v1 (Fig. 14): (N, H, W, C) -> (N, H', W', 256), 35x35 of 299x299."""
    return unit(256, (3, 3), strides=2, name="conv2d_4b")(_first_layers(network, images, unit))


class Mixed5b(nn.Module):
    """The Inception module in the released stem: (N, H, W, C) -> (N, H, W, 320)."""

    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y0 = branch(x, self.unit, "branch0", (96, (1, 1)))
        y1 = branch(x, self.unit, "branch1", (48, (1, 1)), (64, (5, 5)))
        y2 = branch(x, self.unit, "branch2", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)))
        pooled = avg_pool(x, (3, 3), (1, 1), padding=1, count_padding=False)
        y3 = branch(pooled, self.unit, "branch3_1", (64, (1, 1)))
        return jnp.concatenate([y0, y1, y2, y3], axis=-1)


def released_stem(network: nn.Module, images: jax.Array, unit: ModuleDef) -> jax.Array:
    """Stem of the released Inception-ResNet-v2: (N, H, W, C) -> (N, H', W', 320), 35x35 of 299x299."""
    x = max_pool(_first_layers(network, images, unit), (3, 3), (2, 2))
    return Mixed5b(unit, name="mixed_5b")(x)


class InceptionResNet(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 75.

    `gates` (num_blocks,) or (num_blocks, N) multiply the scaled residual branches.
    """

    stem: Callable[[nn.Module, jax.Array, ModuleDef], jax.Array]
    block_a: Branches
    reduction_a: tuple[int, int, int, int]  # k, l, m, n of Table 1
    block_b: Branches
    reduction_b: Branches
    block_c: Branches
    stage_sizes: tuple[int, int, int] = (5, 10, 5)  # blocks at 35x35, 17x17 and 8x8
    scales: tuple[float, float, float] = (0.17, 0.10, 0.20)  # of the branches in each stage
    # Features of a 1x1 convolution ahead of the head; where there is one, the last block has neither scale
    # nor ReLU. None: neither is so, as in the paper.
    last_features: int | None = None
    dropout_rate: float = 0.2  # Fig. 15
    conventions: Conventions = TIMM_INCEPTION
    survival_prob: float = 1.0  # stochastic depth: chance that the last block is kept

    head: ClassVar[str] = "classif"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        check_images(images, 75, "an Inception-ResNet")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        unit: Any = partial(ConvNorm, conv=conv, norm=norm)
        block = partial(ResidualBlock, conv=conv, unit=unit)
        gate = iter(block_gates(self, gates, num_blocks=sum(self.stage_sizes), train=train))
        num_a, num_b, num_c = self.stage_sizes
        scale_a, scale_b, scale_c = self.scales

        x = self.stem(self, images.astype(self.dtype), unit)
        for i in range(1, num_a + 1):
            x = block(A, self.block_a, scale_a, name=f"block35_{i}")(x, next(gate))
        x = tap(self, 8, x)
        x = ReductionA(*self.reduction_a, unit, name="mixed_6a")(x)
        for i in range(1, num_b + 1):
            x = block(B, self.block_b, scale_b, name=f"block17_{i}")(x, next(gate))
        x = tap(self, 16, x)
        x = ReductionB(self.reduction_b, unit, name="mixed_7a")(x)
        for i in range(1, num_c + 1):
            is_last = self.last_features is not None and i == num_c
            scale = 1.0 if is_last else scale_c
            x = block(C, self.block_c, scale, is_last=is_last, name=f"block8_{i}")(x, next(gate))
        if self.last_features is not None:
            x = unit(self.last_features, (1, 1), name="conv2d_7b")(x)
        x = tap(self, 32, x)

        x = global_avg_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="classif")
        return dense(x)  # float32 logits at any dtype


_v1 = partial(
    InceptionResNet,
    stem=stem_v1,
    block_a=((32,), (32, 32), (32, 32, 32)),  # Fig. 10
    reduction_a=(192, 192, 256, 384),  # Table 1
    block_b=((128,), (128, 128, 128)),  # Fig. 11
    reduction_b=((256, 384), (256, 256), (256, 256, 256)),  # Fig. 12
    block_c=((192,), (192, 192, 192)),  # Fig. 13
)
_v2 = partial(
    InceptionResNet,
    stem=inception_v4.stem,
    block_a=((32,), (32, 32), (32, 48, 64)),  # Fig. 16
    reduction_a=(256, 256, 384, 384),  # Table 1
    block_b=((192,), (128, 160, 192)),  # Fig. 17
    reduction_b=((256, 384), (256, 288), (256, 288, 320)),  # Fig. 18
    block_c=((192,), (192, 224, 256)),  # Fig. 19
)
_v2_10_20_10 = partial(_v2, stage_sizes=(10, 20, 10))
_released = partial(_v2_10_20_10, stem=released_stem, last_features=1536, dropout_rate=0.0)
_keras = partial(_released, conventions=KERAS_INCEPTION)
_row = partial(
    Variant, input_shape=(299, 299, 3), mean=(0.5,) * 3, std=(0.5,) * 3, resize=333, interpolation="bicubic"
)
_PAPER = "Szegedy et al. 2017"

# Model, source, parameters, batch statistics, multiply-accumulates: counted on the libraries' networks, and
# by arithmetic from the paper's figures.
VARIANTS = {
    "inception_resnet_v1": _row(_v1, f"{_PAPER}, Fig. 15", 22_756_328, 27_040, 6_206_361_696),
    "inception_resnet_v2": _row(_released, "timm 1.0", 55_843_464, 60_544, 13_155_794_016),
    "inception_resnet_v2_keras": _row(
        _keras, "Keras 3.15", 55_813_192, 60_544, 13_155_794_016, **KERAS_PICTURES
    ),
    "inception_resnet_v2_paper": _row(_v2, f"{_PAPER}, Fig. 15", 32_433_928, 32_864, 9_257_953_632),
    "inception_resnet_v2_paper_10_20_10": _row(
        _v2_10_20_10, f"{_PAPER}, Fig. 15, released stage sizes", 55_284_488, 57_344, 14_142_011_232
    ),
}
