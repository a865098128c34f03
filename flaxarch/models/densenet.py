"""DenseNet: Huang et al., CVPR 2017, https://arxiv.org/abs/1608.06993.

A layer reads the concatenated maps of all layers of its block before it, and adds `growth_rate` maps of its
own. DenseNet-B has bottlenecks, DenseNet-C transitions that compress; the networks for ImageNet are
DenseNet-BC.

The released forms differ. torchvision's, timm's and the authors' (Torch7) networks for ImageNet are the
same, and `densenet161`, of growth rate 48, is not in the paper, whose Table 1 has 264 in its place. Keras's
have epsilon 1.001e-5, momentum 0.99 and Keras's initialisers. The CIFAR networks have no batch norm behind
the first convolution; ports of `densenet_40_12` that compress (theta 0.5) have 599,050 parameters, not the
paper's 1.0M. Dropout stands behind every convolution but the first, as in the paper and the authors' code;
torchvision's `drop_rate` leaves out the 1x1s. It is 0 but where the paper trains without augmentation (0.2).
"""

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Conventions, ModuleDef, Network, check_images, tap, uniform_dense
from flaxarch.models.resnet import KERAS, Stem
from flaxarch.ops import avg_pool, global_avg_pool, max_pool
from flaxarch.variant import CIFAR10_MEAN, CIFAR10_STD, KERAS_PICTURES, Variant


class DenseLayer(nn.Module):
    """BN-ReLU-conv, H_l (Sec. 3): (N, H, W, C) -> (N, H, W, C + growth_rate)."""

    growth_rate: int
    conv: ModuleDef
    norm: ModuleDef
    dropout: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(name="norm1")(x))
        y = self.conv(self.growth_rate, (3, 3), padding=1, name="conv1")(y)
        return jnp.concatenate([x, self.dropout()(y)], axis=-1)


class BottleneckLayer(DenseLayer):
    """BN-ReLU-1x1, BN-ReLU-3x3 (DenseNet-B): (N, H, W, C) -> (N, H, W, C + growth_rate)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(name="norm1")(x))
        y = self.dropout()(self.conv(4 * self.growth_rate, (1, 1), name="conv1")(y))
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(self.growth_rate, (3, 3), padding=1, name="conv2")(y)
        return jnp.concatenate([x, self.dropout()(y)], axis=-1)


class Transition(nn.Module):
    """BN-ReLU-1x1 and a 2x2 mean: (N, H, W, C) -> (N, H / 2, W / 2, compression * C), rounded down."""

    compression: float  # theta
    conv: ModuleDef
    norm: ModuleDef
    dropout: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = int(self.compression * x.shape[-1])
        x = nn.relu(self.norm(name="norm")(x))
        x = self.dropout()(self.conv(features, (1, 1), name="conv")(x))
        return avg_pool(x, (2, 2), (2, 2))  # a last odd row or column is left out


def _imagenet_stem(network: Any, images: jax.Array, conv: ModuleDef, norm: ModuleDef) -> jax.Array:
    """7x7 convolution with stride 2, 3x3 max-pool with stride 2 (Table 1): (N, H / 4, W / 4, 2k)."""
    x = conv(2 * network.growth_rate, (7, 7), (2, 2), padding=3, name="conv0")(images)
    x = nn.relu(norm(name="norm0")(x))
    tap(network, 2, x)
    return max_pool(x, (3, 3), (2, 2), padding=1)


def _cifar_stem(network: Any, images: jax.Array, conv: ModuleDef, norm: ModuleDef) -> jax.Array:
    """One 3x3 convolution (Sec. 3): 16 features, or 2k in front of bottlenecks: (N, H, W, features)."""
    del norm
    features = 2 * network.growth_rate if network.bottleneck else 16
    return conv(features, (3, 3), padding=1, name="conv0")(images)


imagenet_stem = Stem(4, _imagenet_stem)
cifar_stem = Stem(1, _cifar_stem)

TORCH = Conventions(  # torchvision's, as the authors'
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"), dense=uniform_dense
)


class DenseNet(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 29, for ImageNet's stem."""

    growth_rate: int  # k
    block_sizes: tuple[int, ...]  # layers per dense block
    compression: float = 0.5  # theta: what a transition leaves of the features
    bottleneck: bool = True
    stem: Stem = imagenet_stem
    dropout_rate: float = 0.0  # behind every convolution but the first
    conventions: Conventions = TORCH

    head: ClassVar[str] = "classifier"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        # the stem rounds sizes up, and each transition down: one pixel must be left
        num_blocks, stride = len(self.block_sizes), self.stem.stride
        check_images(images, stride * (2 ** (num_blocks - 1) - 1) + 1, "this DenseNet")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        layer = BottleneckLayer if self.bottleneck else DenseLayer

        x = self.stem.layers(self, images.astype(self.dtype), conv, norm)
        for i, num_layers in enumerate(self.block_sizes, start=1):
            for j in range(1, num_layers + 1):
                x = layer(self.growth_rate, conv, norm, dropout, name=f"block{i}_layer{j}")(x)
            if i < num_blocks:
                x = tap(self, stride, x)
                x = Transition(self.compression, conv, norm, dropout, name=f"transition{i}")(x)
                stride *= 2

        x = nn.relu(norm(name="norm5")(x))  # torchvision's name, whatever the number of blocks
        x = tap(self, stride, x)
        x = global_avg_pool(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="classifier")
        return dense(x)  # float32 logits at any dtype


_121, _169, _201, _264 = (6, 12, 24, 16), (6, 12, 32, 32), (6, 12, 48, 32), (6, 12, 64, 48)
_keras = partial(DenseNet, 32, conventions=replace(KERAS, conv_bias=False))
_keras_row = partial(Variant, **KERAS_PICTURES)
_TV, _K, _HUANG, _CV = "torchvision 0.29", "Keras 3.15", "Huang et al. 2017, Table", "pytorchcv 0.0.74"


_CIFAR: dict[str, Any] = {
    "input_shape": (32, 32, 3),
    "resize": 32,
    "num_classes": 10,
    "mean": CIFAR10_MEAN,
    "std": CIFAR10_STD,
}


def _cifar(depth: int, growth_rate: int) -> partial[DenseNet]:
    """Three dense blocks of (depth - 4) / 3 layers."""
    sizes = ((depth - 4) // 3,) * 3
    return partial(DenseNet, growth_rate, sizes, 1.0, bottleneck=False, stem=cifar_stem)


def _cifar_bc(depth: int, growth_rate: int) -> partial[DenseNet]:
    """Three dense blocks of (depth - 4) / 6 bottlenecks, of two layers each."""
    sizes = ((depth - 4) // 6,) * 3
    return partial(DenseNet, growth_rate, sizes, stem=cifar_stem)


# Parameters, batch statistics, multiply-accumulates: counted on the libraries' networks; of the paper's own
# by arithmetic from Table 1 and Sec. 3 (Table 2 prints 1.0M, 7.0M, 27.2M, 0.8M, 15.3M, 25.6M).
VARIANTS = {
    "densenet121": Variant(partial(DenseNet, 32, _121), _TV, 7_978_856, 83_648, 2_834_161_664),
    "densenet161": Variant(partial(DenseNet, 48, (6, 12, 36, 24)), _TV, 28_681_000, 219_936, 7_727_907_072),
    "densenet169": Variant(partial(DenseNet, 32, _169), _TV, 14_149_480, 158_400, 3_359_843_328),
    "densenet201": Variant(partial(DenseNet, 32, _201), _TV, 20_013_928, 229_056, 4_291_365_888),
    "densenet264": Variant(partial(DenseNet, 32, _264), f"{_HUANG} 1", 33_337_704, 398_528, 5_751_653_376),
    "densenet121_keras": _keras_row(partial(_keras, _121), _K, 7_978_856, 83_648, 2_834_161_664),
    "densenet169_keras": _keras_row(partial(_keras, _169), _K, 14_149_480, 158_400, 3_359_843_328),
    "densenet201_keras": _keras_row(partial(_keras, _201), _K, 20_013_928, 229_056, 4_291_365_888),
    "densenet_40_12": Variant(_cifar(40, 12), f"{_HUANG} 2", 1_019_722, 18_096, 264_812_928, **_CIFAR),
    "densenet_100_12": Variant(_cifar(100, 12), f"{_HUANG} 2", 6_979_642, 117_216, 1_769_516_448, **_CIFAR),
    "densenet_100_24": Variant(_cifar(100, 24), f"{_HUANG} 2", 27_249_082, 231_264, 6_889_347_744, **_CIFAR),
    "densenet_bc_40_12": Variant(_cifar_bc(40, 12), _CV, 176_122, 5_088, 72_365_352, **_CIFAR),
    "densenet_bc_40_24": Variant(_cifar_bc(40, 24), _CV, 690_346, 10_176, 288_131_664, **_CIFAR),
    "densenet_bc_40_36": Variant(_cifar_bc(40, 36), _CV, 1_542_682, 15_264, 647_298_936, **_CIFAR),
    "densenet_bc_100_12": Variant(_cifar_bc(100, 12), f"{_HUANG} 2", 769_162, 23_988, 287_929_692, **_CIFAR),
    "densenet_bc_250_24": Variant(
        _cifar_bc(250, 24), f"{_HUANG} 2", 15_324_406, 257_976, 5_418_785_724, **_CIFAR
    ),
    "densenet_bc_190_40": Variant(
        _cifar_bc(190, 40), f"{_HUANG} 2", 25_624_430, 256_960, 9_301_945_740, **_CIFAR
    ),
}
