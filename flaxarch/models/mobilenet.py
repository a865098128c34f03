"""MobileNet: Howard et al. 2017, https://arxiv.org/abs/1704.04861.

The released forms differ. The paper's (`mobilenet_025`, which biubug6/Pytorch_Retinaface has released) have
ReLUs; timm's (`mobilenet_100`) and Keras's (`mobilenet_100_keras`) have ReLU6. Keras's have epsilon 1e-3,
TensorFlow's padding (of a strided convolution, more at the end), and dropout ahead of the classifier. The
parameters are the same. Table 1 gives the last depthwise convolution a stride of 2, from 7x7 to 7x7: in all
releases it is 1.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
from flax import linen as nn

from flaxarch.layers import (
    Conventions,
    ConvNorm,
    ModuleDef,
    Network,
    check_images,
    keras_dense,
    normal_dense,
    tap,
)
from flaxarch.ops import global_avg_pool
from flaxarch.variant import KERAS_PICTURES, Variant

# Table 1: features of a stage's blocks, stride of its first block, number of blocks
STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 2, 6), (1024, 2, 2))


class DepthwiseSeparable(nn.Module):
    """3x3 depthwise, 1x1 (Fig. 3 right): (N, H, W, C) -> (N, H / strides, W / strides, features)."""

    features: int
    conv: ModuleDef
    norm: ModuleDef
    act: Callable[[jax.Array], jax.Array]
    strides: int = 1
    padding: Any = 1  # of the 3x3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        unit = partial(ConvNorm, conv=self.conv, norm=self.norm, act=self.act)
        depthwise = partial(unit, strides=self.strides, padding=self.padding, groups=x.shape[-1])
        x = depthwise(x.shape[-1], (3, 3), name="depthwise")(x)
        return unit(self.features, (1, 1), name="pointwise")(x)


class MobileNet(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 32."""

    width_multiplier: float = 1.0  # of the features of all layers (the paper's alpha)
    act: Callable[[jax.Array], jax.Array] = nn.relu
    stem_padding: Any = 1
    strided_padding: Any = 1  # of the depthwise convolutions with stride 2
    dropout_rate: float = 0.0
    conventions: Conventions = Conventions(dense=normal_dense(0.01))

    head: ClassVar[str] = "classifier"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        check_images(images, 32, "a MobileNet")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        bound = {"conv": conv, "norm": norm, "act": self.act}

        stem = partial(ConvNorm, strides=2, padding=self.stem_padding, **bound, name="stem")
        x = stem(int(32 * self.width_multiplier), (3, 3))(images.astype(self.dtype))
        stride, number = 2, 0
        for features, first_strides, num_blocks in STAGES:
            for strides in (first_strides, *(1,) * (num_blocks - 1)):
                number += 1
                padding = self.strided_padding if strides > 1 else 1
                block = partial(DepthwiseSeparable, **bound, strides=strides, padding=padding)
                x = block(int(features * self.width_multiplier), name=f"block{number}")(x)
            stride *= first_strides
            x = tap(self, stride, x)

        x = global_avg_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="classifier")
        return dense(x)  # float32 logits at any dtype


_KERAS = Conventions(
    epsilon=1e-3, momentum=0.99, kernel_init=nn.initializers.glorot_uniform(), dense=keras_dense
)
_relu6 = partial(MobileNet, act=nn.relu6)
_keras = partial(
    _relu6, stem_padding="SAME", strided_padding=((0, 1), (0, 1)), dropout_rate=1e-3, conventions=_KERAS
)
_PAPER, _TIMM, _K = "Howard et al. 2017, Table 6", "timm 1.0", "Keras 3.15"
_signed = partial(Variant, mean=(0.5,) * 3, std=(0.5,) * 3)  # pixels in [-1, 1]
_timm_row, _keras_row = partial(_signed, interpolation="bicubic"), partial(_signed, **KERAS_PICTURES)

# Model, source, parameters, batch statistics, multiply-accumulates. Counted on the libraries' networks;
# of the paper's by arithmetic from Table 1 (it prints 0.5M and 41M, 1.3M and 149M, 2.6M and 325M).
VARIANTS = {
    "mobilenet_025": Variant(partial(MobileNet, 0.25), _PAPER, 470_072, 5_472, 41_030_272),
    "mobilenet_050": Variant(partial(MobileNet, 0.5), _PAPER, 1_331_592, 10_944, 149_497_088),
    "mobilenet_075": Variant(partial(MobileNet, 0.75), _PAPER, 2_585_560, 16_416, 325_400_448),
    "mobilenet_100_paper": Variant(partial(MobileNet, 1.0), _PAPER, 4_231_976, 21_888, 568_740_352),
    "mobilenet_100": _timm_row(partial(_relu6, 1.0), _TIMM, 4_231_976, 21_888, 568_740_352),
    "mobilenet_125": _timm_row(partial(_relu6, 1.25), _TIMM, 6_270_840, 27_360, 879_516_800, resize=248),
    "mobilenet_025_keras": _keras_row(partial(_keras, 0.25), _K, 470_072, 5_472, 41_030_272),
    "mobilenet_050_keras": _keras_row(partial(_keras, 0.5), _K, 1_331_592, 10_944, 149_497_088),
    "mobilenet_075_keras": _keras_row(partial(_keras, 0.75), _K, 2_585_560, 16_416, 325_400_448),
    "mobilenet_100_keras": _keras_row(partial(_keras, 1.0), _K, 4_231_976, 21_888, 568_740_352),
}
