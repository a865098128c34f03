"""BN-Inception, Inception v2: Ioffe & Szegedy, ICML 2015, https://arxiv.org/abs/1502.03167.

GoogLeNet with batch norm: two 3x3 convolutions for each 5x5, one more module, average pools in most of them,
and two modules that halve the map in place of pools between the stages (Appendix, Fig. 5).

The released forms differ. The paper's (`bn_inception_paper`) is its table, taken at its word: 11.2M
parameters, where its text has 13.6M, and a plain first convolution, where its text has a depthwise separable
one; convolutions have no bias, which batch norm would undo (Sec. 3.2). The released one (`bn_inception`), for
Caffe, and in torch as pretrained-models has it, does have those biases, and projects the pools of 4c and 4d
to 128 features, not 96, so that 4c and 4d have 608 and 4e has 1056; it takes BGR images in [0, 255] less
their mean. No library of today has either. Pools count a last, partly filled window, as Caffe does.
"""

from dataclasses import replace
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Conventions, ConvNorm, ModuleDef, Network, check_images, tap
from flaxarch.models.googlenet import CAFFE
from flaxarch.ops import avg_pool, global_avg_pool, max_pool
from flaxarch.variant import Variant


class Widths(NamedTuple):
    """One row of Fig. 5: features of the convolutions, and what pools. No features, no convolution."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce_double: int
    conv_double: int  # of both 3x3 convolutions
    pool: str  # "avg" or "max"
    pool_proj: int

    @property
    def strides(self) -> int:
        """Two where the pool passes its channels on as they are."""
        return 1 if self.pool_proj else 2


class Inception(nn.Module):
    """Module of Fig. 5: (N, H, W, C) -> (N, H / strides, W / strides, sum of the branches' features)."""

    widths: Widths
    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        unit, widths, strides = self.unit, self.widths, self.widths.strides
        branches = []
        if widths.conv1x1:
            branches.append(unit(widths.conv1x1, (1, 1), name="1x1")(x))
        y = unit(widths.reduce3x3, (1, 1), name="3x3_reduce")(x)
        branches.append(unit(widths.conv3x3, (3, 3), strides=strides, padding=1, name="3x3")(y))
        y = unit(widths.reduce_double, (1, 1), name="double_3x3_reduce")(x)
        y = unit(widths.conv_double, (3, 3), padding=1, name="double_3x3_1")(y)
        y = unit(widths.conv_double, (3, 3), strides=strides, padding=1, name="double_3x3_2")(y)
        branches.append(y)
        if widths.pool_proj:
            pool = {"avg": avg_pool, "max": max_pool}[widths.pool]
            y = pool(x, (3, 3), (1, 1), padding=1)  # means count the padding, as Caffe's
            branches.append(unit(widths.pool_proj, (1, 1), name="pool_proj")(y))
        else:
            branches.append(_halve(x))
        return jnp.concatenate(branches, axis=-1)


def _halve(x: jax.Array) -> jax.Array:
    """3x3 max-pool with stride 2, to the size that the strided convolutions beside it have.

    An even map is pooled as in Caffe: no padding, and a last window partly filled. An odd one, which the
    released network cannot take, is padded as the convolutions pad it.
    """
    top_bottom, left_right = ((size % 2, 1) for size in x.shape[1:3])
    return max_pool(x, (3, 3), (2, 2), padding=(top_bottom, left_right))


FIG_5 = {
    "3a": Widths(64, 64, 64, 64, 96, "avg", 32),
    "3b": Widths(64, 64, 96, 64, 96, "avg", 64),
    "3c": Widths(0, 128, 160, 64, 96, "max", 0),
    "4a": Widths(224, 64, 96, 96, 128, "avg", 128),
    "4b": Widths(192, 96, 128, 96, 128, "avg", 128),
    "4c": Widths(160, 128, 160, 128, 160, "avg", 96),
    "4d": Widths(96, 128, 192, 160, 192, "avg", 96),
    "4e": Widths(0, 128, 192, 192, 256, "max", 0),
    "5a": Widths(352, 192, 320, 160, 224, "avg", 128),
    "5b": Widths(352, 192, 320, 192, 224, "max", 128),
}
RELEASED = FIG_5 | {number: FIG_5[number]._replace(pool_proj=128) for number in ("4c", "4d")}


class BNInception(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 7."""

    modules: tuple[tuple[str, Widths], ...]  # number in Fig. 5, widths
    conventions: Conventions = replace(CAFFE, conv_bias=False)

    head: ClassVar[str] = "fc"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        check_images(images, 7, "a BN-Inception")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        unit = partial(ConvNorm, conv=conv, norm=norm)

        x = images.astype(self.dtype)
        x = unit(64, (7, 7), strides=2, padding=3, name="conv1_7x7_s2")(x)
        x = tap(self, 2, x)
        x = max_pool(x, (3, 3), (2, 2), ceil_mode=True)
        x = unit(64, (1, 1), name="conv2_3x3_reduce")(x)
        x = unit(192, (3, 3), padding=1, name="conv2_3x3")(x)
        x = tap(self, 4, x)
        x = max_pool(x, (3, 3), (2, 2), ceil_mode=True)

        stride = 8
        for number, widths in self.modules:
            stride *= widths.strides
            x = Inception(widths, unit, name=f"inception_{number}")(x)
            x = tap(self, stride, x)

        x = global_avg_pool(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="fc")
        return dense(x)  # float32 logits at any dtype


_BGR = {"mean": (104 / 255, 117 / 255, 128 / 255), "std": (1 / 255,) * 3, "channels": "BGR"}
_paper = partial(BNInception, tuple(FIG_5.items()))
_released = partial(BNInception, tuple(RELEASED.items()), conventions=CAFFE)

# Model, source, parameters, batch statistics, multiply-accumulates: by arithmetic from Fig. 5, and counted on
# the released network's port to torch.
VARIANTS = {
    "bn_inception": Variant(
        _released, "the Caffe release of BN-Inception", 11_295_240, 20_032, 2_032_600_064, **_BGR
    ),
    "bn_inception_paper": Variant(_paper, "Ioffe & Szegedy 2015, Fig. 5", 11_194_984, 19_904, 2_018_851_840),
}
