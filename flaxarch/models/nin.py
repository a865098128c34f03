"""Network in Network: Lin, Chen & Yan, ICLR 2014, https://arxiv.org/abs/1312.4400.

Each convolution is followed by 1x1 convolutions, a small perceptron that slides over the map ("mlpconv"), and
the last layer gives one map per class, whose mean is that class's logit: there is no dense layer.

The released forms differ. The paper has three mlpconv layers and leaves their sizes to the authors' Caffe
definitions: `nin_cifar10` is that for CIFAR-10, with a mean in place of its second max-pool; `nin_imagenet`
the one of Caffe's model zoo, with four, and a stride of 4 in the first. In both a ReLU stands after the last
1x1 too, so that no logit is negative, and pools count a last, partly filled window. pytorchcv's
(`nin_cifar10_pytorchcv`) pads its pools by one in place of that, and its mean counts the padding.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

import jax
from flax import linen as nn

from flaxarch.layers import Conventions, ModuleDef, Network, check_images, tap
from flaxarch.ops import avg_pool, global_avg_pool, max_pool
from flaxarch.variant import CIFAR10_MEAN, CIFAR10_STD, Variant


class Layer(NamedTuple):
    """One mlpconv layer: a convolution, and 1x1 convolutions that have as many features or fewer."""

    kernel_size: int
    features: tuple[int, ...]  # of the convolution, then of the perceptron's layers
    strides: int = 1
    padding: int = 0


class MlpConv(nn.Module):
    """An mlpconv layer (Sec. 3.1, Fig. 1b): (N, H, W, C) -> (N, H / strides, W / strides, features[-1])."""

    layer: Layer
    conv: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, (features, *mlp_features), strides, padding = self.layer
        x = nn.relu(self.conv(features, (size, size), (strides, strides), padding=padding, name="conv")(x))
        for i, features in enumerate(mlp_features, start=1):
            x = nn.relu(self.conv(features, (1, 1), name=f"cccp{i}")(x))
        return x


def halve_max(x: jax.Array) -> jax.Array:
    """3x3 max-pool with stride 2, of partly filled windows too."""
    return max_pool(x, (3, 3), (2, 2), ceil_mode=True)


def halve_mean(x: jax.Array) -> jax.Array:
    """3x3 mean with stride 2; a partly filled window's mean is over what it has."""
    return avg_pool(x, (3, 3), (2, 2), ceil_mode=True, count_padding=False)


padded_max = partial(max_pool, window_shape=(3, 3), strides=(2, 2), padding=1)
padded_mean = partial(avg_pool, window_shape=(3, 3), strides=(2, 2), padding=1)

# The paper gives no initialiser; 0.05 is what ports of the CIFAR-10 definition have.
NIN = Conventions(conv_bias=True, kernel_init=nn.initializers.normal(0.05))


class NiN(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 4, for ImageNet 39."""

    layers: tuple[Layer, ...]  # the last one's perceptron ends in the classes, which are not in its features
    pools: tuple[Callable[[jax.Array], jax.Array], ...]  # after each layer but the last
    dropout_after: tuple[bool, ...]  # the same, whether dropout follows the pool
    dropout_rate: float = 0.5
    conventions: Conventions = NIN

    head: ClassVar[str] = "classifier"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        stride = self.layers[0].strides
        first_windows = 2 ** len(self.pools)  # of the first convolution, so that one is left at the end
        size = self.layers[0].kernel_size + (first_windows - 1) * stride - 2 * self.layers[0].padding
        check_images(images, size, "this NiN")
        conv = self.conventions.conv(self.dtype)

        x = images.astype(self.dtype)
        for i, layer in enumerate(self.layers, start=1):
            x = MlpConv(layer, conv, name=f"mlpconv{i}")(x)
            x = tap(self, stride, x)
            if i < len(self.layers):
                x, stride = self.pools[i - 1](x), stride * 2
                if self.dropout_after[i - 1]:
                    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)

        x = nn.relu(conv(self.num_classes, (1, 1), dtype=None, name="classifier")(x))
        return global_avg_pool(x)  # float32 logits at any dtype


_cifar10 = partial(
    NiN,
    (
        Layer(5, (192, 160, 96), padding=2),
        Layer(5, (192, 192, 192), padding=2),
        Layer(3, (192, 192), padding=1),
    ),
    dropout_after=(True, True),
)
_imagenet = partial(
    NiN,
    (
        Layer(11, (96, 96, 96), strides=4),
        Layer(5, (256, 256, 256), padding=2),
        Layer(3, (384, 384, 384), padding=1),
        Layer(3, (1024, 1024), padding=1),
    ),
    (halve_max, halve_max, halve_max),
    (False, False, True),
)

# Parameters and multiply-accumulates by arithmetic from the definitions. ImageNet's maps are 54, 27, 13 and 6
# wide in Caffe, whose last pool is a mean of 6x6; with pools that leave partly filled windows out, 54, 26, 12
# and 5, MACs are 969,460,864. CIFAR-10's mean and std are the usual ones: the paper whitens whole images,
# which no two numbers do. ImageNet's are Caffe's.
_cifar10_row = partial(
    Variant,
    num_params=966_986,
    num_batch_stats=0,
    macs=222_486_528,
    input_shape=(32, 32, 3),
    num_classes=10,
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
    resize=32,
)
VARIANTS = {
    "nin_cifar10": _cifar10_row(
        partial(_cifar10, pools=(halve_max, halve_mean)), "Lin et al. 2014, the authors' definition"
    ),
    "nin_cifar10_pytorchcv": _cifar10_row(
        partial(_cifar10, pools=(padded_max, padded_mean)), "pytorchcv 0.0.74"
    ),
    "nin_imagenet": Variant(
        _imagenet,
        "Caffe's model zoo",
        7_595_176,
        0,
        1_100_188_800,
        mean=tuple(x / 255 for x in (104.007, 116.669, 122.679)),
        std=(1 / 255,) * 3,
        channels="BGR",
    ),
}
