"""SqueezeNet: Iandola et al. 2016, https://arxiv.org/abs/1602.07360.

The released forms differ. The paper's Table 1 has maps of 111x111, 55x55, 27x27 and 13x13; torchvision's
(`squeezenet1_0`) do not pad the first convolution, and have 109x109 and 54x54 in place of the first two.
`squeezenet1_1` is the authors' later one: 3x3 convolution first, earlier pools, 2.3 times fewer MACs. In all,
pools count their partly filled last window, and a ReLU follows the last convolution too, so that no logit is
negative. `squeezenet1_0_bypass` adds the paper's simple bypass (Fig. 2, middle) and no parameter;
pytorchcv has `squeezenet1_1_bypass` too.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Conventions, ModuleDef, Network, check_images, tap
from flaxarch.ops import global_avg_pool, max_pool
from flaxarch.residual import block_gates, residual
from flaxarch.variant import Variant

_he_uniform = nn.initializers.he_uniform()
TORCH = Conventions(conv_bias=True, kernel_init=_he_uniform)

pool = partial(max_pool, window_shape=(3, 3), strides=(2, 2), ceil_mode=True)


class Fire(nn.Module):
    """1x1 convolution, then 1x1 and 3x3 side by side (Fig. 1): (N, H, W, C) -> (N, H, W, 8 * squeeze)."""

    squeeze: int  # features of the first; both others have four times as many
    conv: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(self.conv(self.squeeze, (1, 1), name="squeeze")(x))
        y1 = nn.relu(self.conv(4 * self.squeeze, (1, 1), name="expand1x1")(x))
        y3 = nn.relu(self.conv(4 * self.squeeze, (3, 3), padding=1, name="expand3x3")(x))
        return jnp.concatenate([y1, y3], axis=-1)


class SqueezeNet(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 14 + `kernel_size`.

    With `bypass`, `gates` (4,) or (4, N) multiply the fire modules that a bypass goes around: 3, 5, 7 and 9.
    """

    stem_features: int
    kernel_size: int  # of the first convolution
    stage_sizes: tuple[int, ...]  # fire modules between pools
    bypass: bool = False  # around each fire module that keeps the number of features
    dropout_rate: float = 0.5  # ahead of conv10
    survival_prob: float = 1.0  # stochastic depth, with bypass: chance that the last of them is kept
    conventions: Conventions = TORCH

    head: ClassVar[str] = "conv10"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        check_images(images, 14 + self.kernel_size, "this SqueezeNet")
        if not self.bypass and (gates is not None or self.survival_prob != 1):
            raise ValueError("a SqueezeNet without bypass takes neither gates nor survival_prob")
        conv = self.conventions.conv(self.dtype)
        gate = iter(block_gates(self, gates, num_blocks=4, train=train))

        side = self.kernel_size
        x = conv(self.stem_features, (side, side), (2, 2), padding=0, name="conv1")(images.astype(self.dtype))
        x, stride = nn.relu(x), 2
        for stage in self.fire_names():
            x = tap(self, stride, x)
            x, stride = pool(x), 2 * stride
            for name in stage:
                number = int(name.removeprefix("fire"))
                y = Fire(16 * (number // 2), conv, name=name)(x)
                x = residual(x, y, next(gate)) if self.bypass and number % 2 else y
        x = tap(self, stride, x)

        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        head = partial(conv, dtype=None, kernel_init=nn.initializers.normal(0.01))  # float32 at any dtype
        x = nn.relu(head(self.num_classes, (1, 1), name="conv10")(x))
        return global_avg_pool(x)

    def fire_names(self) -> list[list[str]]:
        """Names of the fire modules, stage by stage: fire2 to fire9."""
        numbers = iter(range(2, 2 + sum(self.stage_sizes)))
        return [[f"fire{next(numbers)}" for _ in range(size)] for size in self.stage_sizes]


_1_0: Callable[..., SqueezeNet] = partial(SqueezeNet, 96, 7, (3, 4, 1))
_1_1: Callable[..., SqueezeNet] = partial(SqueezeNet, 64, 3, (2, 2, 4))
_TV, _PAPER, _CV = "torchvision 0.29", "Iandola et al. 2016, Sec. 6", "pytorchcv 0.0.74"

# Model, source, parameters (Table 1 has 1,248,424 too), batch statistics, multiply-accumulates.
VARIANTS = {
    "squeezenet1_0": Variant(_1_0, _TV, 1_248_424, 0, 818_924_576),
    "squeezenet1_1": Variant(_1_1, _TV, 1_235_496, 0, 349_151_936),
    "squeezenet1_0_bypass": Variant(partial(_1_0, bypass=True), _PAPER, 1_248_424, 0, 818_924_576),
    "squeezenet1_1_bypass": Variant(partial(_1_1, bypass=True), _CV, 1_235_496, 0, 349_151_936),
}
