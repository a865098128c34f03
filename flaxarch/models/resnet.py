"""ResNet: He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, and its wide and aggregated forms.

Wide bottlenecks: Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146. ResNeXt: Xie et al. 2017,
https://arxiv.org/abs/1611.05431. ResNet-D: He et al. 2019, https://arxiv.org/abs/1812.01187.

The released forms differ. torchvision's (`resnet50`) put a bottleneck's stride on its 3x3 ("v1.5"); the
paper's (`resnet50_v1`) on its first 1x1: same parameters, 6 % fewer MACs. Keras's (`resnet50_keras`) are v1
with a bias on every convolution, though batch norm follows, epsilon 1.001e-5, and BGR images. The plain
networks are the paper's controls: the same layers without shortcuts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
from flax import linen as nn

from flaxarch.layers import TORCH, Conventions, ModuleDef, Network, check_images, keras_dense, tap
from flaxarch.loops import Loops, check_form, loops_of, scan_blocks
from flaxarch.ops import avg_pool, global_avg_pool, max_pool
from flaxarch.residual import block_gates, residual
from flaxarch.variant import CAFFE_IMAGES, Variant

# (x, features, strides, conv, norm) -> x as the residual sum needs it, where a block changes its shape
Shortcut = Callable[[jax.Array, int, int, ModuleDef, ModuleDef], jax.Array]
# (y, conv) -> the branch y with its channels weighted, as by squeeze-and-excitation
Excite = Callable[[jax.Array, ModuleDef], jax.Array]


def projection(x: jax.Array, features: int, strides: int, conv: ModuleDef, norm: ModuleDef) -> jax.Array:
    """Option B (Sec. 3.3): 1x1 convolution and batch norm."""
    x = conv(features, (1, 1), (strides, strides), name="downsample_conv")(x)
    return norm(name="downsample_bn")(x)


def halve(x: jax.Array) -> jax.Array:
    """2x2 means with stride 2; where a size is odd, the last window is cut to the image."""
    pads = ((0, x.shape[1] % 2), (0, x.shape[2] % 2))
    return avg_pool(x, (2, 2), (2, 2), padding=pads, count_padding=False)


def avg_pool_projection(
    x: jax.Array, features: int, strides: int, conv: ModuleDef, norm: ModuleDef
) -> jax.Array:
    """ResNet-D's shortcut: a mean brings the stride, so that the 1x1 convolution skips nothing."""
    return projection(halve(x) if strides > 1 else x, features, 1, conv, norm)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (Fig. 5 left): (N, H, W, C) -> (N, H / strides, W / strides, features)."""

    features: int
    conv: ModuleDef
    norm: ModuleDef
    last_norm: ModuleDef
    shortcut: Shortcut | None  # None: the plain network's two layers
    strides: int = 1
    dilation: tuple[int, int] = (1, 1)  # of the first 3x3, of the rest of the stage
    excite: Excite | None = None  # of the branch, ahead of the sum
    same: bool = False  # padding is TensorFlow's "SAME", which pads a stride of 2 behind only

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        strides, (d1, d2) = (self.strides, self.strides), self.dilation
        pad1, pad2 = ("SAME", "SAME") if self.same else self.dilation
        y = self.conv(self.features, (3, 3), strides, padding=pad1, kernel_dilation=d1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.features, (3, 3), padding=pad2, kernel_dilation=d2, name="conv2")(y)
        y = self.last_norm(name="bn2")(y)
        return _close(self, x, y, gate)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (Fig. 5 right): (N, H, W, C) -> (N, H / strides, W / strides, 4 * features)."""

    features: int
    conv: ModuleDef
    norm: ModuleDef
    last_norm: ModuleDef
    shortcut: Shortcut | None
    strides: int = 1
    dilation: tuple[int, int] = (1, 1)
    cardinality: int = 1  # ResNeXt: groups of the 3x3
    base_width: int = 64  # inner features of one group, in the stage of 64 features
    stride_first: bool = False  # v1: stride on the 1x1, not the 3x3
    reduce_first: int = 1  # the first 1x1 has this many times fewer features than the 3x3
    excite: Excite | None = None

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        width = self.features * self.base_width // 64 * self.cardinality
        first, second = (self.strides, 1) if self.stride_first else (1, self.strides)
        d = self.dilation[0]
        y = self.conv(width // self.reduce_first, (1, 1), (first, first), name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        conv2 = partial(self.conv, feature_group_count=self.cardinality, kernel_dilation=d)
        y = conv2(width, (3, 3), (second, second), padding=d, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(4 * self.features, (1, 1), name="conv3")(y)
        y = self.last_norm(name="bn3")(y)
        return _close(self, x, y, gate)


def _close(block: BasicBlock | Bottleneck, x: jax.Array, y: jax.Array, gate: jax.Array | None) -> jax.Array:
    """The end of a block, called inside it: excitation, shortcut, residual sum, ReLU."""
    if block.excite is not None:
        y = block.excite(y, block.conv)
    if block.shortcut is None:
        return nn.relu(y)
    if block.strides != 1 or x.shape[-1] != y.shape[-1]:
        x = block.shortcut(x, y.shape[-1], block.strides, block.conv, block.norm)
    return nn.relu(residual(x, y, gate))


@dataclass(frozen=True)
class Stem:
    """What stands before the first stage: its layers, and the stride that they bring."""

    stride: int
    layers: Callable[[Any, jax.Array, ModuleDef, ModuleDef], jax.Array]  # (network, images, conv, norm)


def _pool_stem(network: nn.Module, x: jax.Array, ceil_mode: bool) -> jax.Array:
    """3x3 max-pool with stride 2: padded, or in Caffe's manner not padded, with the last window cut."""
    tap(network, 2, x)
    return max_pool(x, (3, 3), (2, 2), padding=0 if ceil_mode else 1, ceil_mode=ceil_mode)


def imagenet_layers(
    network: nn.Module, images: jax.Array, conv: ModuleDef, norm: ModuleDef, ceil_mode: bool = False
) -> jax.Array:
    """7x7 convolution with stride 2, 3x3 max-pool with stride 2 (Table 1): (N, H / 4, W / 4, 64)."""
    x = conv(64, (7, 7), (2, 2), padding=3, name="conv1")(images)
    x = nn.relu(norm(name="bn1")(x))
    return _pool_stem(network, x, ceil_mode)


def deep_layers(
    network: nn.Module,
    images: jax.Array,
    conv: ModuleDef,
    norm: ModuleDef,
    widths: tuple[int, int, int] = (32, 32, 64),
    ceil_mode: bool = False,
) -> jax.Array:
    """ResNet-D: three 3x3 convolutions for the 7x7 (names are timm's): (N, H / 4, W / 4, widths[-1])."""
    x = conv(widths[0], (3, 3), (2, 2), padding=1, name="conv1_0")(images)
    x = nn.relu(norm(name="conv1_1")(x))
    x = conv(widths[1], (3, 3), padding=1, name="conv1_3")(x)
    x = nn.relu(norm(name="conv1_4")(x))
    x = conv(widths[2], (3, 3), padding=1, name="conv1_6")(x)
    x = nn.relu(norm(name="bn1")(x))
    return _pool_stem(network, x, ceil_mode)


imagenet_stem = Stem(4, imagenet_layers)
deep_stem = Stem(4, deep_layers)


class ResNet(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least the natural output stride.

    `gates` (num_blocks,) or (num_blocks, N) multiply the residual branches: ones change nothing, a zero
    removes a block.
    """

    stage_sizes: tuple[int, ...]  # blocks per stage
    block: ModuleDef  # BasicBlock or Bottleneck
    widths: tuple[int, ...] = (64, 128, 256, 512)  # a block's features, per stage
    stem: Stem = imagenet_stem
    shortcut: Shortcut | None = projection  # None: the plain network of He et al. 2016, Sec. 4.1
    conventions: Conventions = TORCH
    output_stride: int | None = None  # of the last stage; what is over it becomes dilation. None: no dilation
    zero_init_residual: bool = False  # each block starts as the identity (Goyal et al. 2017, Sec. 5.1)
    survival_prob: float = 1.0  # stochastic depth: chance that the last block is kept
    dropout_rate: float = 0.0  # ahead of the dense layer
    scan: bool = False  # blocks behind a stage's first in a loop, over stacked variables: `flaxarch.loops`
    momentum: float | None = None  # of blocks behind a stage's first, in a reversible form; None: as they are

    head: ClassVar[str] = "fc"

    @nn.nowrap
    def loops(self) -> Loops:
        """The names of the blocks that run in a loop with `scan`, for each stage."""
        return loops_of(self.stage_sizes)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        check_images(images, self.stem.stride * 2 ** (len(self.stage_sizes) - 1), "this ResNet")
        check_form(self)
        if self.shortcut is None and (
            gates is not None or self.survival_prob != 1 or self.momentum is not None
        ):
            raise ValueError(
                "a plain network has no residual blocks: it takes no gates, survival_prob or momentum"
            )
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        zero_or_one = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        block = partial(
            self.block,
            conv=conv,
            norm=norm,
            last_norm=partial(norm, scale_init=zero_or_one),
            shortcut=self.shortcut,
        )
        gate = iter(block_gates(self, gates, num_blocks=sum(self.stage_sizes), train=train))
        is_looped = self.scan or (self.momentum is not None and not self.is_initializing())

        x = self.stem.layers(self, images.astype(self.dtype), conv, norm)
        stride, dilation = self.stem.stride, 1
        stages = zip(self.stage_sizes, self.widths, self.loops(), strict=True)
        for i, (num_blocks, features, alike) in enumerate(stages, start=1):
            strides, first_dilation = (1 if i == 1 else 2), dilation
            if stride * strides > (self.output_stride or stride * strides):
                strides, dilation = 1, dilation * strides
            stride *= strides
            for j, name in enumerate(f"layer{i}_{j}" for j in range(num_blocks)):
                if is_looped and name in alike:
                    if name == alike[0]:
                        alone = block(features, dilation=(dilation, dilation), parent=None)
                        loop = partial(scan_blocks, self, alone, alike, stacked=self.scan)
                        # with `momentum`: Sander et al. 2021
                        x = loop(x, [next(gate) for _ in alike], momentum=self.momentum)
                    continue
                x = block(
                    features,
                    strides=strides if j == 0 else 1,
                    # torchvision's: the first 3x3 of a stage keeps the dilation of the stage before
                    dilation=(first_dilation if j == 0 else dilation, dilation),
                    name=name,
                )(x, next(gate))
            x = tap(self, stride, x)

        x = global_avg_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="fc")
        return dense(x)  # float32 logits at any dtype


KERAS = Conventions(  # Keras's ResNet and DenseNet
    epsilon=1.001e-5,
    momentum=0.99,
    conv_bias=True,
    kernel_init=nn.initializers.glorot_uniform(),
    dense=keras_dense,
)
_18, _34, _50, _101, _152 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
_basic = partial(ResNet, block=BasicBlock)
_bottleneck = partial(ResNet, block=Bottleneck)
_wide = partial(ResNet, block=partial(Bottleneck, base_width=128))
_v1 = partial(ResNet, block=partial(Bottleneck, stride_first=True))
_keras = partial(_v1, conventions=KERAS)
_plain = partial(_basic, shortcut=None)


def _resnext(cardinality: int, base_width: int) -> Callable[..., ResNet]:
    return partial(ResNet, block=partial(Bottleneck, cardinality=cardinality, base_width=base_width))


_TV, _HE, _K, _CV = "torchvision 0.29", "He et al. 2016, Table 1", "Keras 3.15", "pytorchcv 0.0.74"

# Model, source, parameters, batch statistics, multiply-accumulates. Counted on the libraries' networks; v1
# has torchvision's parameters and Keras's MACs, and plain is the ResNet less its three projections.
VARIANTS = {
    "resnet18": Variant(partial(_basic, _18), _TV, 11_689_512, 9_600, 1_814_073_344),
    "resnet34": Variant(partial(_basic, _34), _TV, 21_797_672, 17_024, 3_663_761_408),
    "resnet50": Variant(partial(_bottleneck, _50), _TV, 25_557_032, 53_120, 4_089_184_256),
    "resnet101": Variant(partial(_bottleneck, _101), _TV, 44_549_160, 105_344, 7_801_405_440),
    "resnet152": Variant(partial(_bottleneck, _152), _TV, 60_192_808, 151_424, 11_513_626_624),
    "wide_resnet50_2": Variant(partial(_wide, _50), _TV, 68_883_240, 68_224, 11_398_021_120),
    "wide_resnet101_2": Variant(partial(_wide, _101), _TV, 126_886_696, 137_856, 22_753_050_624),
    "resnext50_32x4d": Variant(partial(_resnext(32, 4), _50), _TV, 25_028_904, 68_224, 4_230_479_872),
    "resnext101_32x8d": Variant(partial(_resnext(32, 8), _101), _TV, 88_791_336, 202_880, 16_414_015_488),
    "resnext101_64x4d": Variant(partial(_resnext(64, 4), _101), _TV, 83_455_272, 202_880, 15_460_270_080),
    "resnext101_32x4d": Variant(partial(_resnext(32, 4), _101), _CV, 44_177_704, 137_856, 7_969_996_800),
    "resnet50_v1": Variant(partial(_v1, _50), _HE, 25_557_032, 53_120, 3_857_973_248),
    "resnet101_v1": Variant(partial(_v1, _101), _HE, 44_549_160, 105_344, 7_570_194_432),
    "resnet152_v1": Variant(partial(_v1, _152), _HE, 60_192_808, 151_424, 11_282_415_616),
    "resnet50_keras": Variant(partial(_keras, _50), _K, 25_583_592, 53_120, 3_857_973_248, **CAFFE_IMAGES),
    "resnet101_keras": Variant(partial(_keras, _101), _K, 44_601_832, 105_344, 7_570_194_432, **CAFFE_IMAGES),
    "resnet152_keras": Variant(
        partial(_keras, _152), _K, 60_268_520, 151_424, 11_282_415_616, **CAFFE_IMAGES
    ),
    "plain18": Variant(partial(_plain, _18), _HE, 11_515_688, 7_808, 1_794_805_760),
    "plain34": Variant(partial(_plain, _34), _HE, 21_623_848, 15_232, 3_644_493_824),
}
