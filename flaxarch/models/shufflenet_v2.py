"""ShuffleNet v2: Ma et al., ECCV 2018, https://arxiv.org/abs/1807.11164.

The released forms are torchvision's: the widths of the paper's Table 5, and its parameters, while the paper
states 146 million multiply-accumulates at 1x and the network has 145. The paper's deeper forms, with residual
shortcuts or squeeze-and-excitation (Sec. 4), are not among the released ones, and not here.
"""

from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Conventions, ConvNorm, ModuleDef, Network, check_images, tap, torch_uniform
from flaxarch.ops import global_avg_pool, max_pool
from flaxarch.variant import Variant


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Channels as a table of `groups` rows, read by columns: (N, H, W, C) -> (N, H, W, C).

    Zhang et al. 2018 (ShuffleNet), Sec. 3.1, https://arxiv.org/abs/1707.01083.
    """
    table = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return table.swapaxes(-1, -2).reshape(x.shape)


class Unit(nn.Module):
    """Basic unit (Fig. 3c), or with stride 2 for spatial down sampling (Fig. 3d).

    (N, H, W, C) -> (N, H / strides, W / strides, features). The basic unit splits the channels, and lets one
    half pass as it is.
    """

    features: int
    conv: ModuleDef
    norm: ModuleDef
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv_norm = partial(ConvNorm, conv=self.conv, norm=self.norm)
        depthwise = partial(conv_norm, kernel_size=(3, 3), strides=self.strides, padding=1, act=None)
        half = self.features // 2
        if self.strides == 1:
            x, y = jnp.split(x, 2, axis=-1)
        else:
            channels, y = x.shape[-1], x
            x = depthwise(channels, groups=channels, name="branch1_dw")(x)
            x = conv_norm(half, (1, 1), name="branch1_pw")(x)
        y = conv_norm(half, (1, 1), name="branch2_pw1")(y)
        y = depthwise(half, groups=half, name="branch2_dw")(y)
        y = conv_norm(half, (1, 1), name="branch2_pw2")(y)
        return channel_shuffle(jnp.concatenate([x, y], axis=-1), 2)


class ShuffleNetV2(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 32, its stride."""

    widths: tuple[int, int, int, int]  # of stages 2 to 4 and of conv5 (Table 5)
    stage_sizes: tuple[int, int, int] = (4, 8, 4)
    conventions: Conventions = Conventions(kernel_init=torch_uniform)

    head: ClassVar[str] = "fc"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        check_images(images, 32, "a ShuffleNet")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        conv_norm = partial(ConvNorm, conv=conv, norm=norm)
        *widths, last_width = self.widths

        x = conv_norm(24, (3, 3), strides=2, padding=1, name="conv1")(images.astype(self.dtype))
        x = tap(self, 2, x)
        x = max_pool(x, (3, 3), (2, 2), padding=1)
        x = tap(self, 4, x)
        for i, (num_units, features) in enumerate(zip(self.stage_sizes, widths, strict=True), start=2):
            for j in range(num_units):
                x = Unit(features, conv, norm, strides=2 if j == 0 else 1, name=f"stage{i}_{j}")(x)
            x = tap(self, 2 ** (i + 1), x)
        x = conv_norm(last_width, (1, 1), name="conv5")(x)
        x = tap(self, 2 ** (len(widths) + 2), x)

        x = global_avg_pool(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="fc")
        return dense(x)  # float32 logits at any dtype


_TV = "torchvision 0.29"


def _net(stage2: int, stage3: int, stage4: int, conv5: int) -> partial[ShuffleNetV2]:
    return partial(ShuffleNetV2, (stage2, stage3, stage4, conv5))


# Model, source, parameters, batch statistics, multiply-accumulates. Counted on torchvision's networks.
VARIANTS = {
    "shufflenet_v2_x0_5": Variant(_net(48, 96, 192, 1024), _TV, 1_366_792, 7_952, 40_476_448),
    "shufflenet_v2_x1_0": Variant(_net(116, 232, 464, 1024), _TV, 2_278_604, 16_180, 144_907_992),
    "shufflenet_v2_x1_5": Variant(_net(176, 352, 704, 1024), _TV, 3_503_624, 23_440, 295_759_392),
    "shufflenet_v2_x2_0": Variant(_net(244, 488, 976, 2048), _TV, 7_393_996, 33_716, 583_253_464),
}
