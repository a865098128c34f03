"""ResNets for 32x32 images: He et al. 2016, Sec. 4.2, https://arxiv.org/abs/1512.03385, and their kin.

6n + 2 layers: a 3x3 convolution, three stages of n basic blocks of 16, 32 and 64 features, a dense layer. The
paper's shortcuts have no parameters (option A); many ports, and the rows `_b`, project (option B). Plain
networks are the paper's controls. Stochastic depth (`_sd`): Huang et al. 2016, https://arxiv.org/abs/1603.09382.
ResNeXt-29: Xie et al. 2017, Sec. 5.3, https://arxiv.org/abs/1611.05431. ResNet-8, in Keras, is the reference
of MLPerf Tiny (Banbury et al. 2021, https://arxiv.org/abs/2106.07597): TensorFlow's padding, biases
everywhere, bare 1x1 projections, epsilon 1e-3, and pixels in [0, 255].
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Conventions, ModuleDef, keras_dense
from flaxarch.models.resnet import BasicBlock, Bottleneck, ResNet, Stem, halve, projection
from flaxarch.ops import subsample
from flaxarch.variant import Variant


def stage_sizes(depth: int) -> tuple[int, int, int]:
    """Blocks per stage of the network of `depth` = 6n + 2 layers: (n, n, n).

    Any such network: `CifarResNet(stage_sizes(depth=26))`.
    """
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        below = max(8, depth - rest)
        raise ValueError(
            f"depth {depth} is not 6n + 2 (two 3x3 layers a block, three stages): take {below} or {below + 6}"
        )
    return n, n, n


def zero_pad(x: jax.Array, features: int, strides: int, conv: ModuleDef, norm: ModuleDef) -> jax.Array:
    """Option A (Sec. 3.3): every second row and column, and zeros for the new features.

    The paper does not say where the zeros go; the released checkpoints were trained with half of them before
    the old features and half behind.
    """
    del conv, norm  # no parameters
    new = features - x.shape[-1]
    x = subsample(x, (strides, strides))
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


def avg_pool_pad(x: jax.Array, features: int, strides: int, conv: ModuleDef, norm: ModuleDef) -> jax.Array:
    """Huang et al. 2016, in the authors' code: average pooling, and zeros behind the old features."""
    del conv, norm
    if strides > 1:
        x = halve(x)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


def bare_projection(x: jax.Array, features: int, strides: int, conv: ModuleDef, norm: ModuleDef) -> jax.Array:
    """1x1 convolution without batch norm."""
    del norm
    return conv(features, (1, 1), (strides, strides), name="downsample_conv")(x)


def _cifar_stem(network: ResNet, images: jax.Array, conv: ModuleDef, norm: ModuleDef) -> jax.Array:
    """One 3x3 convolution, as wide as the first stage: (N, H, W, widths[0])."""
    x = conv(network.widths[0], (3, 3), padding=1, name="conv1")(images)
    return nn.relu(norm(name="bn1")(x))


cifar_stem = Stem(1, _cifar_stem)

# Images (N, H, W, C) -> logits (N, 10); H and W at least 4. Fields as ResNet's.
CifarResNet = partial(
    ResNet, block=BasicBlock, widths=(16, 32, 64), stem=cifar_stem, shortcut=zero_pad, num_classes=10
)

_PROJECTIONS = (2_752, 192, 262_144)  # what option B adds: 1x1 from 16 to 32 features and from 32 to 64
_row = partial(Variant, input_shape=(32, 32, 3), num_classes=10, resize=32)

# Parameters, batch statistics, multiply-accumulates, by arithmetic from Sec. 4.2 (the paper prints 0.27M,
# 0.46M, 0.66M, 0.85M, 1.7M, 19.4M). The released weights were trained with ImageNet's mean and std.
_DEPTHS = {
    20: (269_722, 1_376, 40_551_040),
    32: (464_154, 2_272, 68_862_592),
    44: (658_586, 3_168, 97_174_144),
    56: (853_018, 4_064, 125_485_696),
    110: (1_727_962, 8_096, 252_887_680),
    1202: (19_421_274, 89_632, 2_829_238_912),
}
_HE, _HUANG, _XIE = "He et al. 2016, Sec. 4.2", "Huang et al. 2016", "Xie et al. 2017, Sec. 5.3"
_CV = "pytorchcv 0.0.74"


def _resnext29(cardinality: int, base_width: int) -> partial[ResNet]:
    block = partial(Bottleneck, cardinality=cardinality, base_width=base_width)
    return partial(CifarResNet, (3, 3, 3), block=block, widths=(64, 128, 256), shortcut=projection)


_tiny = partial(
    CifarResNet,
    (1, 1, 1),
    block=partial(BasicBlock, same=True),
    shortcut=bare_projection,
    conventions=Conventions(
        epsilon=1e-3,
        momentum=0.99,
        conv_bias=True,
        kernel_init=nn.initializers.he_normal(),
        dense=keras_dense,
    ),
)

VARIANTS = {
    **{f"resnet{d}": _row(partial(CifarResNet, stage_sizes(d)), _HE, *n) for d, n in _DEPTHS.items()},
    **{
        f"plain{d}": _row(partial(CifarResNet, stage_sizes(d), shortcut=None), _HE, *n)
        for d, n in _DEPTHS.items()
    },
    **{
        f"resnet{d}_b": _row(
            partial(CifarResNet, stage_sizes(d), shortcut=projection),
            f"{_HE}, option B",
            *(a + b for a, b in zip(n, _PROJECTIONS, strict=True)),
        )
        for d, n in _DEPTHS.items()
    },
    # ResNet-164 of He et al. 2016b, Table 2, with bottlenecks
    "resnet164_b": _row(
        partial(CifarResNet, (18, 18, 18), block=Bottleneck, shortcut=projection),
        _CV,
        1_704_154,
        25_120,
        247_646_720,
    ),
    **{
        f"resnet{d}_sd": _row(
            partial(CifarResNet, stage_sizes(d), shortcut=avg_pool_pad, survival_prob=0.5),
            _HUANG,
            *_DEPTHS[d],
        )
        for d in (110, 1202)
    },
    "resnet8_keras": _row(
        _tiny, "MLPerf Tiny 1.0, Keras", 78_186, 480, 12_501_632, mean=(0.0,) * 3, std=(1 / 255,) * 3
    ),
    "resnext29_8x64d": _row(_resnext29(8, 64), _XIE, 34_426_698, 57_472, 5_387_266_048),
    "resnext29_32x4d": _row(_resnext29(32, 4), _CV, 4_775_754, 25_216, 774_055_936),
    "resnext29_16x64d": _row(_resnext29(16, 64), _XIE, 68_155_210, 100_480, 10_688_866_304),
}
