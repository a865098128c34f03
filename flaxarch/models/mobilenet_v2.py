"""MobileNetV2: Sandler et al., CVPR 2018, https://arxiv.org/abs/1801.04381.

The released forms differ. torchvision's (`mobilenet_v2`) and timm's have epsilon 1e-5 and pad symmetrically;
Keras's (`mobilenet_v2_100_keras`) have epsilon 1e-3, momentum 0.999 and TensorFlow's padding, and no dropout.
Scaled features are rounded to multiples of eight, which the paper does not say; the last convolution keeps
its 1280 features below a multiplier of one (Sec. 6.1), and has more above. timm's 110d and 120d, not of the
paper, scale the number of blocks too, and neither the stem nor the last convolution.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

import jax
from flax import linen as nn

from flaxarch.layers import (
    Conventions,
    ConvNorm,
    ModuleDef,
    Network,
    SqueezeExcite,
    check_images,
    keras_dense,
    normal_dense,
    tap,
)
from flaxarch.ops import global_avg_pool
from flaxarch.residual import block_gates, residual
from flaxarch.variant import KERAS_PICTURES, Variant

# Table 2: expansion, features and stride of a stage; its number of blocks is the network's
STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 2), (6, 64, 2), (6, 96, 1), (6, 160, 2), (6, 320, 1))


def make_divisible(features: float) -> int:
    """The nearest multiple of eight, but no less than 90 %, and at least eight: the authors' rounding."""
    rounded = max(8, int(features + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * features else rounded


class Block(NamedTuple):
    """What tells one inverted residual of a network from another; features as they are, not to be scaled."""

    channels: int  # of its input
    expanded: int  # features of the depthwise convolution
    features: int
    strides: int
    kernel_size: int = 3
    act: Callable[[jax.Array], jax.Array] = nn.relu6
    squeeze_excite: bool = False

    @property
    def has_expansion(self) -> bool:
        """Whether a 1x1 convolution stands ahead of the depthwise one."""
        return self.expanded != self.channels

    @property
    def has_shortcut(self) -> bool:
        """Whether the block is residual: where its shape stays."""
        return self.strides == 1 and self.channels == self.features


class InvertedResidual(nn.Module):
    """1x1, depthwise, linear 1x1 (Fig. 3b): (N, H, W, C) -> (N, H / strides, W / strides, features)."""

    block: Block
    conv: ModuleDef
    norm: ModuleDef
    same_padding: bool = False  # TensorFlow's

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        block, y = self.block, x
        unit = partial(ConvNorm, conv=self.conv, norm=self.norm, act=block.act)
        if block.has_expansion:
            y = unit(block.expanded, (1, 1), name="expand")(y)
        window = (block.kernel_size, block.kernel_size)
        padding = "SAME" if self.same_padding else block.kernel_size // 2
        depthwise = partial(unit, strides=block.strides, padding=padding, groups=block.expanded)
        y = depthwise(block.expanded, window, name="depthwise")(y)
        if block.squeeze_excite:  # MobileNetV3, Fig. 4
            inner = make_divisible(block.expanded / 4)
            y = SqueezeExcite(inner, self.conv, gate=nn.hard_sigmoid, name="squeeze_excite")(y)
        y = unit(block.features, (1, 1), act=None, name="project")(y)
        return residual(x, y, gate) if block.has_shortcut else y


class InvertedResiduals(Network):
    """What MobileNetV2 and V3 have in common: fields, and the way through the blocks."""

    width_multiplier: float = 1.0
    same_padding: bool = False  # TensorFlow's: of a strided convolution's pads, more stand at the end
    dropout_rate: float = 0.2
    conventions: Conventions = Conventions(dense=normal_dense(0.01))
    survival_prob: float = 1.0  # stochastic depth: chance that the last residual block is kept

    head: ClassVar[str] = "classifier"

    def blocks(self) -> tuple[Block, ...]:
        """All blocks, from the first to the last."""
        raise TypeError(f"{type(self).__name__} has no blocks: it is MobileNetV2 or MobileNetV3")

    def body(
        self, x: jax.Array, conv: ModuleDef, norm: ModuleDef, *, train: bool, gates: jax.Array | None
    ) -> jax.Array:
        """The blocks, called inside the network: (N, H, W, C), at stride 2, -> (N, H / 16, W / 16, C')."""
        blocks = self.blocks()
        num_blocks = sum(block.has_shortcut for block in blocks)
        gate = iter(block_gates(self, gates, num_blocks=num_blocks, train=train))
        stride = 2
        for number, block in enumerate(blocks, start=1):
            if block.strides > 1:
                x = tap(self, stride, x)
            stride *= block.strides
            residual_block = InvertedResidual(block, conv, norm, self.same_padding, name=f"block{number}")
            x = residual_block(x, next(gate) if block.has_shortcut else None)
        return tap(self, stride, x)


class MobileNetV2(InvertedResiduals):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 32.

    `gates` (num_blocks,) or (num_blocks, N) multiply the branches of the blocks that have a shortcut.
    """

    stage_sizes: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    stem_features: int | None = None  # None: 32, scaled
    last_features: int = 1280

    def stem_width(self) -> int:
        """Features of the stem."""
        return self.stem_features or make_divisible(32 * self.width_multiplier)

    def blocks(self) -> tuple[Block, ...]:
        """All blocks, from the first to the last."""
        found, channels = [], self.stem_width()
        for (expansion, features, first_strides), size in zip(STAGES, self.stage_sizes, strict=True):
            features = make_divisible(features * self.width_multiplier)
            for strides in (first_strides, *(1,) * (size - 1)):
                found.append(Block(channels, expansion * channels, features, strides))
                channels = features
        return tuple(found)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        check_images(images, 32, "a MobileNetV2")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        unit = partial(ConvNorm, conv=conv, norm=norm, act=nn.relu6)

        stem = partial(unit, strides=2, padding="SAME" if self.same_padding else 1, name="stem")
        x = stem(self.stem_width(), (3, 3))(images.astype(self.dtype))
        x = self.body(x, conv, norm, train=train, gates=gates)
        x = unit(self.last_features, (1, 1), name="last")(x)
        x = global_avg_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="classifier")
        return dense(x)  # float32 logits at any dtype


KERAS = Conventions(  # of V3's too
    epsilon=1e-3, momentum=0.999, kernel_init=nn.initializers.glorot_uniform(), dense=keras_dense
)
_timm = partial(MobileNetV2, dropout_rate=0.0)
_110d = partial(_timm, 1.1, stage_sizes=(1, 3, 4, 5, 4, 4, 1), stem_features=32)
_120d = partial(_timm, 1.2, stage_sizes=(1, 3, 5, 6, 5, 5, 1), stem_features=32)
_keras = partial(MobileNetV2, same_padding=True, dropout_rate=0.0, conventions=KERAS)
_TV, _TIMM, _K = "torchvision 0.29", "timm 1.0", "Keras 3.15"
_timm_row = partial(Variant, interpolation="bicubic")
_keras_row = partial(Variant, mean=(0.5,) * 3, std=(0.5,) * 3, **KERAS_PICTURES)  # pixels in [-1, 1]

# Model, source, parameters, batch statistics, multiply-accumulates: counted on the libraries' networks.
VARIANTS = {
    "mobilenet_v2": Variant(partial(MobileNetV2, 1.0), _TV, 3_504_872, 34_112, 300_774_272),
    "mobilenet_v2_035": _timm_row(partial(_timm, 0.35), _TIMM, 1_677_128, 14_080, 59_285_808),
    "mobilenet_v2_050": _timm_row(partial(_timm, 0.5), _TIMM, 1_968_680, 18_544, 97_131_840),
    "mobilenet_v2_075": _timm_row(partial(_timm, 0.75), _TIMM, 2_636_424, 26_640, 209_069_792),
    "mobilenet_v2_140": _timm_row(
        partial(_timm, 1.4, last_features=1792), _TIMM, 6_108_776, 47_936, 582_195_824
    ),
    "mobilenet_v2_110d": _timm_row(_110d, _TIMM, 4_516_520, 47_488, 430_516_080),
    "mobilenet_v2_120d": _timm_row(_120d, _TIMM, 5_831_144, 63_776, 668_857_568),
    "mobilenet_v2_035_keras": _keras_row(partial(_keras, 0.35), _K, 1_677_128, 14_080, 59_285_808),
    "mobilenet_v2_050_keras": _keras_row(partial(_keras, 0.5), _K, 1_968_680, 18_544, 97_131_840),
    "mobilenet_v2_075_keras": _keras_row(partial(_keras, 0.75), _K, 2_636_424, 26_640, 209_069_792),
    "mobilenet_v2_100_keras": _keras_row(partial(_keras, 1.0), _K, 3_504_872, 34_112, 300_774_272),
    "mobilenet_v2_130_keras": _keras_row(
        partial(_keras, 1.3, last_features=1664), _K, 5_386_792, 44_256, 509_374_560
    ),
    "mobilenet_v2_140_keras": _keras_row(
        partial(_keras, 1.4, last_features=1792), _K, 6_108_776, 47_936, 582_195_824
    ),
}
