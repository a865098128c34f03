"""Inception v4: Szegedy et al., AAAI 2017, https://arxiv.org/abs/1602.07261.

The paper's residual networks are in `inception_resnet.py`.

The released form follows the paper's figures (`inception_v4` is timm's, whose weights are the authors'). The
paper leaves open, and the released form settles: epsilon 1e-3, and average pools that leave padding out.
timm's builder has no dropout by default, where the paper's Fig. 9 keeps a unit with chance 0.8.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Conventions, ConvNorm, ModuleDef, Network, check_images, tap, torch_uniform
from flaxarch.ops import avg_pool, global_avg_pool, max_pool
from flaxarch.variant import Variant

Layer = tuple[int, tuple[int, int]]  # features and kernel of a convolution with batch norm and ReLU


def branch(x: jax.Array, unit: ModuleDef, name: str, *layers: Layer, strides: int = 1) -> jax.Array:
    """Layers after one another, which keep the size, except that a last one with `strides` has no padding.

    They are called `name`, or, where they are several, `name`_0, `name`_1 and so on.
    """
    for i, (features, kernel) in enumerate(layers):
        is_strided = strides > 1 and i == len(layers) - 1
        layer = partial(unit, strides=strides) if is_strided else partial(unit, padding="SAME")
        x = layer(features, kernel, name=f"{name}_{i}" if len(layers) > 1 else name)(x)
    return x


def stem(network: nn.Module, images: jax.Array, unit: ModuleDef) -> jax.Array:
    """Stem of Inception-v4 and, in the paper, of Inception-ResNet-v2 (Fig. 3).

    (N, H, W, C) -> (N, H', W', 384), 35x35 of 299x299; its modules are the `network`'s, which calls it.
    """
    x = unit(32, (3, 3), strides=2, name="stem_conv1")(images)
    x = unit(32, (3, 3), name="stem_conv2")(x)
    x = unit(64, (3, 3), padding="SAME", name="stem_conv3")(x)
    tap(network, 2, x)
    y = unit(96, (3, 3), strides=2, name="stem_conv4")(x)
    x = jnp.concatenate([max_pool(x, (3, 3), (2, 2)), y], axis=-1)
    y = unit(64, (1, 1), name="stem_branch0_0")(x)
    y = unit(96, (3, 3), name="stem_branch0_1")(y)
    z = unit(64, (1, 1), name="stem_branch1_0")(x)
    z = unit(64, (1, 7), padding="SAME", name="stem_branch1_1")(z)
    z = unit(64, (7, 1), padding="SAME", name="stem_branch1_2")(z)
    z = unit(96, (3, 3), name="stem_branch1_3")(z)
    x = jnp.concatenate([y, z], axis=-1)
    tap(network, 4, x)
    y = unit(192, (3, 3), strides=2, name="stem_conv5")(x)
    return jnp.concatenate([y, max_pool(x, (3, 3), (2, 2))], axis=-1)


def _pool(x: jax.Array) -> jax.Array:
    """3x3 mean with stride 1; padding does not count."""
    return avg_pool(x, (3, 3), (1, 1), padding=1, count_padding=False)


class InceptionA(nn.Module):
    """Inception-A (Fig. 4), at 35x35: (N, H, W, C) -> (N, H, W, 384)."""

    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y0 = branch(x, self.unit, "branch0", (96, (1, 1)))
        y1 = branch(x, self.unit, "branch1", (64, (1, 1)), (96, (3, 3)))
        y2 = branch(x, self.unit, "branch2", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)))
        y3 = branch(_pool(x), self.unit, "branch3_1", (96, (1, 1)))
        return jnp.concatenate([y0, y1, y2, y3], axis=-1)


class ReductionA(nn.Module):
    """Reduction-A (Fig. 7, Table 1), 35x35 to 17x17: (N, H, W, C) -> (N, H', W', C + n + m)."""

    k: int  # features of the longer branch's layers
    l: int  # noqa: E741  # the paper's name
    m: int
    n: int  # features of the 3x3 that reads the input
    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        longer = (self.k, (1, 1)), (self.l, (3, 3)), (self.m, (3, 3))
        y0 = branch(x, self.unit, "branch0", (self.n, (3, 3)), strides=2)
        y1 = branch(x, self.unit, "branch1", *longer, strides=2)
        return jnp.concatenate([y0, y1, max_pool(x, (3, 3), (2, 2))], axis=-1)


class InceptionB(nn.Module):
    """Inception-B (Fig. 5), at 17x17: (N, H, W, C) -> (N, H, W, 1024)."""

    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        longest = (192, (1, 1)), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))
        y0 = branch(x, self.unit, "branch0", (384, (1, 1)))
        y1 = branch(x, self.unit, "branch1", (192, (1, 1)), (224, (1, 7)), (256, (7, 1)))
        y2 = branch(x, self.unit, "branch2", *longest)
        y3 = branch(_pool(x), self.unit, "branch3_1", (128, (1, 1)))
        return jnp.concatenate([y0, y1, y2, y3], axis=-1)


class ReductionB(nn.Module):
    """Reduction-B (Fig. 8), 17x17 to 8x8: (N, H, W, C) -> (N, H', W', C + 512)."""

    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        longer = (256, (1, 1)), (256, (1, 7)), (320, (7, 1)), (320, (3, 3))
        y0 = branch(x, self.unit, "branch0", (192, (1, 1)), (192, (3, 3)), strides=2)
        y1 = branch(x, self.unit, "branch1", *longer, strides=2)
        return jnp.concatenate([y0, y1, max_pool(x, (3, 3), (2, 2))], axis=-1)


class InceptionC(nn.Module):
    """Inception-C (Fig. 6), at 8x8: (N, H, W, C) -> (N, H, W, 1536)."""

    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        unit = partial(self.unit, padding="SAME")
        y0 = unit(256, (1, 1), name="branch0")(x)
        y1 = unit(384, (1, 1), name="branch1_0")(x)
        y1a = unit(256, (1, 3), name="branch1_1a")(y1)
        y1b = unit(256, (3, 1), name="branch1_1b")(y1)
        y2 = unit(384, (1, 1), name="branch2_0")(x)
        y2 = unit(448, (3, 1), name="branch2_1")(y2)
        y2 = unit(512, (1, 3), name="branch2_2")(y2)
        y2a = unit(256, (1, 3), name="branch2_3a")(y2)
        y2b = unit(256, (3, 1), name="branch2_3b")(y2)
        y3 = unit(256, (1, 1), name="branch3_1")(_pool(x))
        return jnp.concatenate([y0, y1a, y1b, y2a, y2b, y3], axis=-1)


TIMM_INCEPTION = Conventions(epsilon=1e-3, kernel_init=torch_uniform, torch_bias=True)


class InceptionV4(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 75."""

    stage_sizes: tuple[int, int, int] = (4, 7, 3)  # Inception-A, -B and -C modules (Fig. 9)
    dropout_rate: float = 0.2  # Fig. 9
    conventions: Conventions = TIMM_INCEPTION

    head: ClassVar[str] = "last_linear"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        check_images(images, 75, "an Inception v4")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        unit: Any = partial(ConvNorm, conv=conv, norm=norm)
        num_a, num_b, num_c = self.stage_sizes

        x = stem(self, images.astype(self.dtype), unit)
        for i in range(1, num_a + 1):
            x = InceptionA(unit, name=f"inception_a{i}")(x)
        x = tap(self, 8, x)
        x = ReductionA(192, 224, 256, 384, unit, name="reduction_a")(x)
        for i in range(1, num_b + 1):
            x = InceptionB(unit, name=f"inception_b{i}")(x)
        x = tap(self, 16, x)
        x = ReductionB(unit, name="reduction_b")(x)
        for i in range(1, num_c + 1):
            x = InceptionC(unit, name=f"inception_c{i}")(x)
        x = tap(self, 32, x)

        x = global_avg_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="last_linear")
        return dense(x)  # float32 logits at any dtype


# Model, source, parameters, batch statistics, multiply-accumulates: counted on timm's network.
VARIANTS = {
    "inception_v4": Variant(
        partial(InceptionV4, dropout_rate=0.0),
        "timm 1.0",
        42_679_816,
        63_168,
        12_253_974_624,
        input_shape=(299, 299, 3),
        resize=341,
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
}
