"""Wide ResNet: Zagoruyko & Komodakis, BMVC 2016, https://arxiv.org/abs/1605.07146.

Pre-activation blocks (He et al. 2016b), `widen_factor` times as wide as the CIFAR ResNet's. Where a block
changes the shape, shortcut and branch both read the activated input, and the shortcut is a bare 1x1
convolution, as in the authors' code. The wide bottlenecks for ImageNet are in `resnet.py`.
"""

from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from flaxarch.layers import TORCH, Conventions, ModuleDef, Network, check_images, tap
from flaxarch.ops import global_avg_pool
from flaxarch.residual import block_gates, residual
from flaxarch.variant import Variant


class WideBlock(nn.Module):
    """BN-ReLU-conv, twice (Fig. 1c, 1d): (N, H, W, C) -> (N, H / strides, W / strides, features)."""

    features: int
    conv: ModuleDef
    norm: ModuleDef
    dropout: ModuleDef
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        strides = (self.strides, self.strides)
        y = nn.relu(self.norm(name="bn1")(x))
        if self.strides != 1 or x.shape[-1] != self.features:
            x = self.conv(self.features, (1, 1), strides, name="shortcut")(y)
        y = self.conv(self.features, (3, 3), strides, padding=1, name="conv1")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.dropout()(y)
        y = self.conv(self.features, (3, 3), padding=1, name="conv2")(y)
        return residual(x, y, gate)


class WideResNet(Network):
    """WRN-depth-widen_factor: images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 4.

    `gates` (num_blocks,) or (num_blocks, N) multiply the residual branches.
    """

    depth: int  # 6n + 4: n blocks of two layers in each of three stages, stem, projections, head
    widen_factor: int
    dropout_rate: float = 0.0  # between a block's convolutions; 0.3 in the paper's Table 6
    conventions: Conventions = TORCH
    survival_prob: float = 1.0  # stochastic depth: chance that the last block is kept

    head: ClassVar[str] = "fc"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        num_blocks, rest = divmod(self.depth - 4, 6)
        if num_blocks < 1 or rest:
            raise ValueError(f"a wide ResNet's depth is 6n + 4, as 16, 28 or 40, not {self.depth}")
        check_images(images, 4, "a wide ResNet")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        gate = iter(block_gates(self, gates, num_blocks=3 * num_blocks, train=train))

        x = conv(16, (3, 3), padding=1, name="conv1")(images.astype(self.dtype))
        for i, features in enumerate((16, 32, 64), start=1):
            for j in range(num_blocks):
                strides = 2 if i > 1 and j == 0 else 1
                block = WideBlock(
                    features * self.widen_factor, conv, norm, dropout, strides, name=f"layer{i}_{j}"
                )
                x = block(x, next(gate))
            x = tap(self, 2 ** (i - 1), x)

        x = nn.relu(norm(name="bn")(x))
        x = global_avg_pool(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="fc")
        return dense(x)  # float32 logits at any dtype


_row = partial(
    Variant, source="Zagoruyko & Komodakis 2016, Table 5", input_shape=(32, 32, 3), num_classes=10, resize=32
)

# Parameters, batch statistics, multiply-accumulates by arithmetic from Table 1 (the paper prints 2.8M, 11.0M,
# 36.5M, 8.9M); of 16-10 and 40-8, whose weights pytorchcv has, counted there.
VARIANTS = {
    "wrn_16_4": _row(
        partial(WideResNet, 16, 4), num_params=2_748_890, num_batch_stats=3_616, macs=392_612_352
    ),
    "wrn_16_8": _row(
        partial(WideResNet, 16, 8), num_params=10_961_370, num_batch_stats=7_200, macs=1_548_145_664
    ),
    "wrn_28_10": _row(
        partial(WideResNet, 28, 10), num_params=36_479_194, num_batch_stats=17_952, macs=5_243_328_768
    ),
    "wrn_40_4": _row(
        partial(WideResNet, 40, 4), num_params=8_949_210, num_batch_stats=10_784, macs=1_298_582_016
    ),
    "wrn_16_10": _row(
        partial(WideResNet, 16, 10),
        source="pytorchcv 0.0.74",
        num_params=17_116_634,
        num_batch_stats=8_992,
        macs=2_412_173_568,
    ),
    "wrn_40_8": _row(
        partial(WideResNet, 40, 8),
        source="pytorchcv 0.0.74",
        num_params=35_748_314,
        num_batch_stats=21_536,
        macs=5_172_024_320,
    ),
}
