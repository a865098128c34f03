"""Squeeze-and-excitation networks: Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507.

ResNets whose blocks weigh the channels of their branch, ahead of the sum, by what the whole image says of
them (`flaxarch.layers.SqueezeExcite`).

The released forms differ. The authors' Caffe networks, which timm has as `legacy_*`, put a bottleneck's
stride on its first 1x1 (ResNeXt's and SENet-154's on the 3x3) and do not pad the stem's max-pool but cut its
last window, so that the windows lie one pixel further down and to the right. timm's own (`seresnet50`) are
its ResNets: stride on the 3x3, a padded pool, zero-initialised residuals, and inner features rounded to a
multiple of 8, which shows in blocks of 64 channels. pytorchcv's (`seresnet50_v1`) have the paper's stride
and a padded pool. `senet154`, of GluonCV's weights, is `legacy_senet154` but for the pool. Dropout ahead of
the head, 0.2, is SENet-154's in the paper; timm's `senet154` has none, and its legacy networks all have it by
default, where here only SENet-154 does.

SENet-154 (Appendix) differs from an SE-ResNeXt-152 64x4d in the halved first 1x1 of a block, three 3x3
convolutions for the stem's 7x7, and projections that are 3x3 where there is a stride.
"""

from functools import partial
from typing import Any

import jax

from flaxarch.layers import Conventions, ModuleDef, SqueezeExcite
from flaxarch.models.cifar_resnet import VARIANTS as CIFAR_RESNETS
from flaxarch.models.cifar_resnet import CifarResNet, stage_sizes
from flaxarch.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    Stem,
    deep_layers,
    imagenet_layers,
    projection,
)
from flaxarch.variant import Variant

REDUCTION = 16  # r in the paper: inner features are C / r


def excite(y: jax.Array, conv: ModuleDef) -> jax.Array:
    """Squeeze-and-excitation of the paper, with C / 16 inner features."""
    return SqueezeExcite(y.shape[-1] // REDUCTION, conv, name="se")(y)


def excite_by_eights(y: jax.Array, conv: ModuleDef) -> jax.Array:
    """timm's: the inner features are the multiple of 8 that is nearest to C / 16, and at least 8."""
    inner = max(8, (y.shape[-1] // REDUCTION + 4) // 8 * 8)
    return SqueezeExcite(inner, conv, name="se")(y)


def wide_projection(x: jax.Array, features: int, strides: int, conv: ModuleDef, norm: ModuleDef) -> jax.Array:
    """SENet-154's shortcut: a 3x3 where it strides, a 1x1 in the first stage."""
    if strides == 1 and features > 256:
        raise ValueError("SENet-154 takes no output_stride: the kernels of its shortcuts depend on strides")
    size = 3 if strides > 1 else 1
    conv = partial(conv, padding=size // 2)
    x = conv(features, (size, size), (strides, strides), name="downsample_conv")(x)
    return norm(name="downsample_bn")(x)


_caffe_stem = Stem(4, partial(imagenet_layers, ceil_mode=True))
_stem_154 = Stem(4, partial(deep_layers, widths=(64, 64, 128)))
_caffe_stem_154 = Stem(4, partial(deep_layers, widths=(64, 64, 128), ceil_mode=True))

_18, _34, _50, _101, _152 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
_next = partial(Bottleneck, cardinality=32, base_width=4, excite=excite)
_block_154 = partial(Bottleneck, cardinality=64, base_width=4, reduce_first=2, excite=excite)

_CONVENTIONS = Conventions(torch_bias=True)  # only the excitation has biases
_resnet = partial(ResNet, conventions=_CONVENTIONS)
_timm = partial(_resnet, zero_init_residual=True)
_basic = partial(_timm, block=partial(BasicBlock, excite=excite_by_eights))
_bottleneck = partial(_timm, block=partial(Bottleneck, excite=excite))
_v1 = partial(_resnet, block=partial(Bottleneck, stride_first=True, excite=excite))
_legacy = partial(_v1, stem=_caffe_stem)
_legacy_next = partial(_resnet, block=_next, stem=_caffe_stem)
_154 = partial(_timm, _152, block=_block_154, stem=_stem_154, shortcut=wide_projection)
_legacy_154 = partial(
    _resnet, _152, block=_block_154, stem=_caffe_stem_154, shortcut=wide_projection, dropout_rate=0.2
)
_cifar = partial(CifarResNet, block=partial(BasicBlock, excite=excite), conventions=_CONVENTIONS)


def _cifar_row(depth: int, source: str, suffix: str = "", **fields: Any) -> Variant:
    """The ResNet's, on option A's shortcuts or, of suffix _b, B's, and what excitation adds.

    A block of C features gets 2 C (C / 16) weights, and C / 16 + C biases: 49, 162 and 580 parameters in the
    three stages, and 32, 128 and 512 multiply-accumulates; of each there are (depth - 2) / 6.
    """
    n, row = (depth - 2) // 6, CIFAR_RESNETS[f"resnet{depth}{suffix}"]
    return row._replace(
        model=partial(_cifar, stage_sizes(depth), **fields),
        source=source,
        num_params=row.num_params + n * (49 + 162 + 580),
        macs=row.macs + n * (32 + 128 + 512),
    )


_TIMM, _CV = "timm 1.0", "pytorchcv 0.0.74"
_row = partial(Variant, interpolation="bicubic")

# Model, source, parameters, batch statistics, multiply-accumulates: counted on timm's networks.
VARIANTS = {
    "seresnet18": _row(partial(_basic, _18), _TIMM, 11_779_624, 9_600, 1_814_161_408),
    "seresnet34": _row(partial(_basic, _34), _TIMM, 21_960_416, 17_024, 3_663_920_128),
    "seresnet50": _row(partial(_bottleneck, _50), _TIMM, 28_088_024, 53_120, 4_091_699_200, resize=235),
    "seresnet101": _row(partial(_bottleneck, _101), _TIMM, 49_326_872, 105_344, 7_806_148_608),
    "seresnet152": _row(partial(_bottleneck, _152), _TIMM, 66_821_848, 151_424, 11_520_204_800),
    "seresnext50_32x4d": _row(partial(_timm, _50, block=_next), _TIMM, 27_559_896, 68_224, 4_232_994_816),
    "seresnext101_32x4d": _row(partial(_timm, _101, block=_next), _TIMM, 48_955_416, 137_856, 7_974_739_968),
    "senet154": _row(_154, _TIMM, 115_088_984, 247_552, 20_688_363_520),
    "legacy_seresnet50": Variant(partial(_legacy, _50), _TIMM, 28_088_024, 53_120, 3_860_488_192),
    "legacy_seresnet101": Variant(partial(_legacy, _101), _TIMM, 49_326_872, 105_344, 7_574_937_600),
    "legacy_seresnet152": Variant(partial(_legacy, _152), _TIMM, 66_821_848, 151_424, 11_288_993_792),
    "legacy_seresnext50_32x4d": Variant(partial(_legacy_next, _50), _TIMM, 27_559_896, 68_224, 4_232_994_816),
    "legacy_seresnext101_32x4d": Variant(
        partial(_legacy_next, _101), _TIMM, 48_955_416, 137_856, 7_974_739_968
    ),
    "legacy_senet154": Variant(_legacy_154, _TIMM, 115_088_984, 247_552, 20_688_363_520),
    "seresnet50_v1": Variant(partial(_v1, _50), _CV, 28_088_024, 53_120, 3_860_488_192),
    "seresnet101_v1": Variant(partial(_v1, _101), _CV, 49_326_872, 105_344, 7_574_937_600),
    "seresnet152_v1": Variant(partial(_v1, _152), _CV, 66_821_848, 151_424, 11_288_993_792),
    **{
        f"seresnet{depth}": _cifar_row(depth, "Hu et al. 2018, Table 4")  # the paper has depth 110
        for depth in (20, 56, 110)
    },
    **{f"seresnet{depth}_b": _cifar_row(depth, _CV, "_b", shortcut=projection) for depth in (20, 56, 110)},
}
