"""Dual path networks: Chen et al., NIPS 2017, https://arxiv.org/abs/1707.01629.

A block's output is in two parts: the first is added to the residual path, as in a ResNet, the second is
appended to the dense path, as in a DenseNet. Both paths are one array (N, H, W, C): the first `features`
channels are the residual path's.

The released forms differ. The rows are timm's, which reads the authors' MXNet weights: epsilon 1e-3, and
batch norm and ReLU ahead of every convolution but the first. Its last activation is written there as ELU, and
is ReLU in fact. The paper has 92 and 98 (Table 1) and 131; 68 and 107 are of the authors' release, and so are
the fewer features of 68. timm's `dpn68b` is `dpn68` with the last convolution of each block in two tensors.
"""

from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Conventions, ConvNorm, ModuleDef, Network, check_images, tap, torch_uniform
from flaxarch.ops import global_avg_pool, max_pool
from flaxarch.residual import block_gates, residual
from flaxarch.variant import Variant


class NormConv(nn.Module):
    """Batch norm, ReLU, convolution: (N, H, W, C) -> (N, H / strides, W / strides, features)."""

    features: int
    kernel_size: int
    conv: ModuleDef
    norm: ModuleDef
    strides: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(self.norm(name="bn")(x))
        size, strides = (self.kernel_size,) * 2, (self.strides,) * 2
        conv = partial(self.conv, padding=self.kernel_size // 2, feature_group_count=self.groups)
        return conv(self.features, size, strides, name="conv")(x)


class DualPathBlock(nn.Module):
    """1x1, grouped 3x3, 1x1 (Fig. 2d): (N, H, W, C) -> (N, H / strides, W / strides, C' + growth).

    C' is C, or features + 2 * growth where the block projects. `gate` multiplies what is added to the
    residual path; the dense path keeps what is appended to it.
    """

    width: int  # of the 3x3
    features: int  # of the residual path
    growth: int  # of the dense path
    groups: int
    conv: ModuleDef
    norm: ModuleDef
    strides: int = 1
    project: bool = False  # the first block of a stage starts both paths afresh

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        layer = partial(NormConv, conv=self.conv, norm=self.norm)
        y = layer(self.width, 1, name="c1x1_a")(x)
        y = layer(self.width, 3, strides=self.strides, groups=self.groups, name="c3x3_b")(y)
        y = layer(self.features + self.growth, 1, name="c1x1_c")(y)
        if self.project:
            x = layer(self.features + 2 * self.growth, 1, strides=self.strides, name="c1x1_w")(x)
        added, appended = jnp.split(y, [self.features], axis=-1)
        residual_path, dense_path = jnp.split(x, [self.features], axis=-1)
        return jnp.concatenate([residual(residual_path, added, gate), dense_path, appended], axis=-1)


class DPN(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 32.

    `gates` (num_blocks,) or (num_blocks, N) multiply what the blocks add to the residual path.
    """

    stage_sizes: tuple[int, ...]  # blocks per stage
    growths: tuple[int, ...]  # "+k" of Table 1, per stage
    width: int  # of the 3x3 in the first stage; twice as much in each further one
    groups: int
    stem_features: int
    stem_size: int = 7  # kernel of the first convolution
    first_features: int = 256  # of the residual path in the first stage; twice as much in each further one
    conventions: Conventions = Conventions(epsilon=1e-3, kernel_init=torch_uniform, torch_bias=True)
    survival_prob: float = 1.0  # stochastic depth: chance that the last block is kept

    head: ClassVar[str] = "classifier"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        check_images(images, 4 * 2 ** (len(self.stage_sizes) - 1), "this DPN")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        gate = iter(block_gates(self, gates, num_blocks=sum(self.stage_sizes), train=train))

        size = (self.stem_size, self.stem_size)
        stem = ConvNorm(
            self.stem_features, size, conv, norm, strides=2, padding=self.stem_size // 2, name="conv1_1"
        )
        x = stem(images.astype(self.dtype))
        x = tap(self, 2, x)
        x = max_pool(x, (3, 3), (2, 2), padding=1)
        for i, (num_blocks, growth) in enumerate(zip(self.stage_sizes, self.growths, strict=True)):
            for j in range(num_blocks):
                x = DualPathBlock(
                    self.width * 2**i,
                    self.first_features * 2**i,
                    growth,
                    self.groups,
                    conv,
                    norm,
                    strides=2 if i > 0 and j == 0 else 1,
                    project=j == 0,
                    name=f"conv{i + 2}_{j + 1}",
                )(x, next(gate))
            x = tap(self, 4 * 2**i, x)

        x = nn.relu(norm(name="conv5_bn_ac")(x))
        x = global_avg_pool(x)[:, None, None]
        # the source's head is a 1x1 convolution; float32 logits at any dtype
        x = conv(self.num_classes, (1, 1), use_bias=True, dtype=None, name="classifier")(x)
        return x.squeeze((1, 2))


_row = partial(
    Variant,
    source="timm 1.0",
    interpolation="bicubic",
    mean=(124 / 255, 117 / 255, 104 / 255),
    std=(0.0167**-1 / 255,) * 3,  # the authors multiplied pixels in [0, 255] by 0.0167
)

# Shapes: Table 1 for 92 and 98, the authors' release. Parameters, batch statistics, multiply-accumulates:
# counted on timm's networks (the paper prints 6.5, 11.7 and 16.0 GFLOPs for 92, 98 and 131).
VARIANTS = {
    "dpn68": _row(
        partial(DPN, (3, 4, 12, 3), (16, 32, 32, 64), 128, 32, 10, stem_size=3, first_features=64),
        num_params=12_611_602,
        num_batch_stats=65_116,
        macs=2_326_163_456,
    ),
    "dpn92": _row(
        partial(DPN, (3, 4, 20, 3), (16, 32, 24, 128), 96, 32, 64),
        num_params=37_668_392,
        num_batch_stats=125_216,
        macs=6_501_684_224,
    ),
    "dpn98": _row(
        partial(DPN, (3, 6, 20, 3), (16, 32, 32, 128), 160, 40, 96),
        num_params=61_570_728,
        num_batch_stats=164_896,
        macs=11_671_217_152,
    ),
    "dpn131": _row(
        partial(DPN, (4, 8, 28, 3), (16, 32, 32, 128), 160, 40, 128),
        num_params=79_254_504,
        num_batch_stats=223_360,
        macs=16_013_648_896,
    ),
    "dpn107": _row(
        partial(DPN, (4, 8, 20, 3), (20, 64, 64, 128), 200, 50, 128),
        num_params=86_917_800,
        num_batch_stats=213_824,
        macs=18_298_764_288,
    ),
}
