"""Xception: Chollet, CVPR 2017, https://arxiv.org/abs/1610.02357.

The released forms differ. Keras's (`xception_keras`) is the author's: max-pools that pad even sizes at the
end only, batch norm with epsilon 1e-3. timm's (`xception`, there legacy_xception) is the same network in
torch's manner: pads on both sides, epsilon 1e-5, torch's initialisers. Neither has the paper's optional
dense layers, nor the dropout of 0.5 ahead of the classifier (Sec. 4.3), which is `dropout_rate` here. All
three have 22,855,952 parameters (Table 3).
"""

from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from flaxarch.layers import TORCH, Conventions, ModuleDef, Network, check_images, keras_dense, tap
from flaxarch.ops import global_avg_pool, max_pool
from flaxarch.ops.pool import Padding
from flaxarch.residual import block_gates, residual
from flaxarch.variant import KERAS_PICTURES, Variant


class SeparableConv(nn.Module):
    """3x3 on each channel, then 1x1 over them (Sec. 1.1): (N, H, W, C) -> (N, H, W, features)."""

    features: int
    conv: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = self.conv(channels, (3, 3), padding=1, feature_group_count=channels, name="depthwise")(x)
        return self.conv(self.features, (1, 1), name="pointwise")(x)


class Block(nn.Module):
    """Separable convolutions with a shortcut (Fig. 5).

    (N, H, W, C) -> (N, H / strides, W / strides, widths[-1]). Each convolution has a ReLU before it, but for
    the network's first, and batch norm after it; a max-pool brings the stride.
    """

    widths: tuple[int, ...]  # features of each convolution
    conv: ModuleDef
    norm: ModuleDef
    pool_padding: Padding
    strides: int = 1
    relu_first: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        strides, y = (self.strides, self.strides), x
        for i, features in enumerate(self.widths, start=1):
            y = nn.relu(y) if self.relu_first or i > 1 else y
            y = SeparableConv(features, self.conv, name=f"sepconv{i}")(y)
            y = self.norm(name=f"bn{i}")(y)
        if self.strides != 1:
            y = max_pool(y, (3, 3), strides, padding=self.pool_padding)
        if self.strides != 1 or x.shape[-1] != y.shape[-1]:
            x = self.conv(y.shape[-1], (1, 1), strides, name="skip")(x)
            x = self.norm(name="skipbn")(x)
        return residual(x, y, gate)


class Xception(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 7.

    `gates` (num_blocks,) or (num_blocks, N) multiply the residual branches, of which the network has twelve.
    """

    entry_widths: tuple[int, ...] = (128, 256, 728)  # entry flow: two convolutions and a stride each
    num_middle: int = 8  # middle flow: blocks of three convolutions
    exit_widths: tuple[int, int, int] = (1024, 1536, 2048)  # exit flow: block 12, and the two last layers
    pool_padding: Padding = 1
    dropout_rate: float = 0.0  # ahead of the dense layer; 0.5 in the paper
    survival_prob: float = 1.0  # stochastic depth: chance that the last block is kept
    conventions: Conventions = TORCH

    head: ClassVar[str] = "fc"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        check_images(images, 7, "an Xception")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        block = partial(Block, conv=conv, norm=norm, pool_padding=self.pool_padding)
        num_entry = len(self.entry_widths)
        gate = iter(block_gates(self, gates, num_blocks=num_entry + self.num_middle + 1, train=train))

        x = conv(32, (3, 3), (2, 2), padding=0, name="conv1")(images.astype(self.dtype))
        x = nn.relu(norm(name="bn1")(x))
        x = conv(64, (3, 3), padding=0, name="conv2")(x)
        x = nn.relu(norm(name="bn2")(x))
        x = tap(self, 2, x)

        for i, features in enumerate(self.entry_widths, start=1):
            widths = (features, features)
            x = block(widths, strides=2, relu_first=i > 1, name=f"block{i}")(x, next(gate))
            x = tap(self, 2 ** (i + 1), x)
        stride, features = 2 ** (num_entry + 1), self.entry_widths[-1]
        for i in range(num_entry + 1, num_entry + self.num_middle + 1):
            x = block((features,) * 3, name=f"block{i}")(x, next(gate))
        x = tap(self, stride, x)

        widths = (features, self.exit_widths[0])
        x = block(widths, strides=2, name=f"block{num_entry + self.num_middle + 1}")(x, next(gate))
        for i, features in enumerate(self.exit_widths[1:], start=3):
            x = SeparableConv(features, conv, name=f"conv{i}")(x)
            x = nn.relu(norm(name=f"bn{i}")(x))
        x = tap(self, 2 * stride, x)

        x = global_avg_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="fc")
        return dense(x)  # float32 logits at any dtype


KERAS = Conventions(
    epsilon=1e-3, momentum=0.99, kernel_init=nn.initializers.glorot_uniform(), dense=keras_dense
)
_row = partial(
    Variant,
    num_params=22_855_952,
    num_batch_stats=54_528,
    macs=8_357_403_496,
    input_shape=(299, 299, 3),
    resize=333,
    interpolation="bicubic",
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)

# Counted on the libraries' networks.
_keras = partial(Xception, pool_padding="SAME", conventions=KERAS)

VARIANTS = {
    "xception": _row(Xception, "timm 1.0"),
    "xception_keras": _row(
        partial(Xception, pool_padding="SAME", conventions=KERAS), "Keras 3.15", **KERAS_PICTURES
    ),
}
