"""Inception v3: Szegedy et al., CVPR 2016, https://arxiv.org/abs/1512.00567.

The released forms differ from the paper. All of them put a 1x1 convolution and a pool where Table 1 has two
3x3 convolutions in the stem; their first three modules keep a 5x5 branch beside Fig. 5's two 3x3; and their
grid reductions are not quite Fig. 10. They differ from each other too. torchvision's (`inception_v3`) has the
auxiliary head with batch norm of Fig. 8, and its average pools count their padding; timm's is the same
without that head (`inception_v3_no_aux`). Keras's (`inception_v3_keras`) has no auxiliary head and no
dropout, its batch norm has no scale, and its average pools leave padding out.

The released weights are for pixels normalised by mean 0.5 and standard deviation 0.5, as the rows say.
torchvision normalises by ImageNet's mean and standard deviation, and its network maps such images to those:
with them, its weights need `transform_input`.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import (
    Conventions,
    ConvNorm,
    ModuleDef,
    Network,
    check_images,
    keras_dense,
    normal_torch_dense,
    tap,
)
from flaxarch.ops import avg_pool, global_avg_pool, max_pool
from flaxarch.variant import IMAGENET_MEAN, IMAGENET_STD, KERAS_PICTURES, Variant

Pool = Callable[[jax.Array], jax.Array]  # 3x3 mean with stride 1, of the same size


class InceptionA(nn.Module):
    """5x5 beside two 3x3 in its place (Fig. 5): (N, H, W, C) -> (N, H, W, 224 + pool_features)."""

    pool_features: int
    unit: ModuleDef  # convolution, batch norm, ReLU
    pool: Pool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        unit = partial(self.unit, padding="SAME")
        y1 = unit(64, (1, 1), name="branch1x1")(x)
        y5 = unit(48, (1, 1), name="branch5x5_1")(x)
        y5 = unit(64, (5, 5), name="branch5x5_2")(y5)
        y3 = unit(64, (1, 1), name="branch3x3dbl_1")(x)
        y3 = unit(96, (3, 3), name="branch3x3dbl_2")(y3)
        y3 = unit(96, (3, 3), name="branch3x3dbl_3")(y3)
        pooled = unit(self.pool_features, (1, 1), name="branch_pool")(self.pool(x))
        return jnp.concatenate([y1, y5, y3, pooled], axis=-1)


class InceptionB(nn.Module):
    """1x7 and 7x1 for 7x7 (Fig. 6, n = 7): (N, H, W, C) -> (N, H, W, 768)."""

    inner: int  # features inside the branches
    unit: ModuleDef
    pool: Pool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        unit = partial(self.unit, padding="SAME")
        y1 = unit(192, (1, 1), name="branch1x1")(x)
        y7 = unit(self.inner, (1, 1), name="branch7x7_1")(x)
        y7 = unit(self.inner, (1, 7), name="branch7x7_2")(y7)
        y7 = unit(192, (7, 1), name="branch7x7_3")(y7)
        y77 = unit(self.inner, (1, 1), name="branch7x7dbl_1")(x)
        y77 = unit(self.inner, (7, 1), name="branch7x7dbl_2")(y77)
        y77 = unit(self.inner, (1, 7), name="branch7x7dbl_3")(y77)
        y77 = unit(self.inner, (7, 1), name="branch7x7dbl_4")(y77)
        y77 = unit(192, (1, 7), name="branch7x7dbl_5")(y77)
        pooled = unit(192, (1, 1), name="branch_pool")(self.pool(x))
        return jnp.concatenate([y1, y7, y77, pooled], axis=-1)


class InceptionC(nn.Module):
    """Expanded filter bank (Fig. 7): (N, H, W, C) -> (N, H, W, 2048)."""

    unit: ModuleDef
    pool: Pool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        unit = partial(self.unit, padding="SAME")
        y1 = unit(320, (1, 1), name="branch1x1")(x)
        y3 = unit(384, (1, 1), name="branch3x3_1")(x)
        y3a = unit(384, (1, 3), name="branch3x3_2a")(y3)
        y3b = unit(384, (3, 1), name="branch3x3_2b")(y3)
        y33 = unit(448, (1, 1), name="branch3x3dbl_1")(x)
        y33 = unit(384, (3, 3), name="branch3x3dbl_2")(y33)
        y33a = unit(384, (1, 3), name="branch3x3dbl_3a")(y33)
        y33b = unit(384, (3, 1), name="branch3x3dbl_3b")(y33)
        pooled = unit(192, (1, 1), name="branch_pool")(self.pool(x))
        return jnp.concatenate([y1, y3a, y3b, y33a, y33b, pooled], axis=-1)


class GridReductionA(nn.Module):
    """Convolutions and a pool, side by side, halve the grid (Fig. 10): (N, H, W, C) -> (N, H', W', C + 480).

    H' = floor((H - 1) / 2). The single 3x3 reads the input itself, without Fig. 10's 1x1 before it.
    """

    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y3 = self.unit(384, (3, 3), strides=2, name="branch3x3")(x)
        y33 = self.unit(64, (1, 1), name="branch3x3dbl_1")(x)
        y33 = self.unit(96, (3, 3), padding="SAME", name="branch3x3dbl_2")(y33)
        y33 = self.unit(96, (3, 3), strides=2, name="branch3x3dbl_3")(y33)
        return jnp.concatenate([y3, y33, max_pool(x, (3, 3), (2, 2))], axis=-1)


class GridReductionB(nn.Module):
    """The same with a 7x7, factorised, in the longer branch: (N, H, W, C) -> (N, H', W', C + 512)."""

    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y3 = self.unit(192, (1, 1), name="branch3x3_1")(x)
        y3 = self.unit(320, (3, 3), strides=2, name="branch3x3_2")(y3)
        y7 = self.unit(192, (1, 1), name="branch7x7x3_1")(x)
        y7 = self.unit(192, (1, 7), padding="SAME", name="branch7x7x3_2")(y7)
        y7 = self.unit(192, (7, 1), padding="SAME", name="branch7x7x3_3")(y7)
        y7 = self.unit(192, (3, 3), strides=2, name="branch7x7x3_4")(y7)
        return jnp.concatenate([y3, y7, max_pool(x, (3, 3), (2, 2))], axis=-1)


class AuxiliaryHead(nn.Module):
    """Classifier with batch norm on the last 17x17 grid (Fig. 8): (N, H, W, C) -> (N, num_classes)."""

    num_classes: int
    unit: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = avg_pool(x, (5, 5), (3, 3))
        x = self.unit(128, (1, 1), name="conv0")(x)
        x = self.unit(768, (5, 5), name="conv1")(x)
        x = global_avg_pool(x)
        return normal_torch_dense(0.001)(self.num_classes, x.shape[-1], name="fc")(x)


# torchvision truncates at ±2, which is 20 standard deviations: in effect it does not. The 0.01 that it means
# for the auxiliary head's 5x5 does not arrive there.
TORCH_INCEPTION = Conventions(
    epsilon=1e-3, kernel_init=nn.initializers.normal(0.1), dense=normal_torch_dense(0.1)
)
KERAS_INCEPTION = Conventions(
    epsilon=1e-3,
    momentum=0.99,
    norm_scale=False,
    kernel_init=nn.initializers.glorot_uniform(),
    dense=keras_dense,
)


class InceptionV3(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 75, with exits 299."""

    aux: bool = True  # whether there is an auxiliary head
    count_padding: bool = True  # in average pools; Keras leaves padding out
    dropout_rate: float = 0.5
    transform_input: bool = False  # from ImageNet's mean and standard deviation, per channel, to 0.5 and 0.5
    conventions: Conventions = TORCH_INCEPTION

    head: ClassVar[str] = "fc"
    aux_weight: ClassVar[float] = 0.4  # in the authors' training code; the paper names none

    @property
    def aux_heads(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The modules that give the auxiliary logits."""
        return ("AuxLogits/fc",) if self.aux else ()

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, exits: bool | None = None
    ) -> jax.Array | tuple[jax.Array, tuple[jax.Array, ...]]:
        check_images(images, 75, "an Inception v3")
        if exits and not self.aux:
            raise ValueError("this Inception v3 has no exits: it was made without auxiliary head, aux=False")
        exits = self.aux and not self.is_initializing() and (train if exits is None else exits)
        if exits:
            check_images(images, 299, "the auxiliary head of an Inception v3")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        unit = partial(ConvNorm, conv=conv, norm=norm)
        pool = partial(
            avg_pool, window_shape=(3, 3), strides=(1, 1), padding=1, count_padding=self.count_padding
        )
        aux_logits: tuple[jax.Array, ...] = ()

        x = images.astype(self.dtype)
        if self.transform_input:
            x = to_half(x)
        x = unit(32, (3, 3), strides=2, name="Conv2d_1a_3x3")(x)
        x = unit(32, (3, 3), name="Conv2d_2a_3x3")(x)
        x = unit(64, (3, 3), padding=1, name="Conv2d_2b_3x3")(x)
        x = tap(self, 2, x)
        x = max_pool(x, (3, 3), (2, 2))
        x = unit(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = unit(192, (3, 3), name="Conv2d_4a_3x3")(x)
        x = tap(self, 4, x)
        x = max_pool(x, (3, 3), (2, 2))

        for letter, pool_features in zip("bcd", (32, 64, 64), strict=True):
            x = InceptionA(pool_features, unit, pool, name=f"Mixed_5{letter}")(x)  # 35x35 of 299x299
        x = tap(self, 8, x)
        x = GridReductionA(unit, name="Mixed_6a")(x)
        for letter, inner in zip("bcde", (128, 160, 160, 192), strict=True):
            x = InceptionB(inner, unit, pool, name=f"Mixed_6{letter}")(x)  # 17x17
        x = tap(self, 16, x)
        if self.aux and (exits or self.is_initializing()):
            # smaller images than it takes do for making its parameters
            grid = x if exits else jnp.zeros((1, 17, 17, x.shape[-1]), x.dtype)
            aux_logits = (AuxiliaryHead(self.num_classes, unit, name="AuxLogits")(grid),)
        x = GridReductionB(unit, name="Mixed_7a")(x)
        for letter in "bc":
            x = InceptionC(unit, pool, name=f"Mixed_7{letter}")(x)  # 8x8
        x = tap(self, 32, x)

        x = global_avg_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        logits = self.conventions.dense(self.num_classes, x.shape[-1], name="fc")(x)  # float32 at any dtype
        return (logits, aux_logits) if exits else logits


def to_half(x: jax.Array) -> jax.Array:
    """Images of ImageNet's mean and standard deviation to those of 0.5 and 0.5, per channel."""
    if x.shape[-1] != 3:
        raise ValueError(f"transform_input is for RGB images, not for {x.shape[-1]} channels")
    mean, std = (jnp.asarray(values, x.dtype)[None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return x * (std / 0.5) + (mean - 0.5) / 0.5


_no_aux = partial(InceptionV3, aux=False)
_keras = partial(_no_aux, count_padding=False, dropout_rate=0.0, conventions=KERAS_INCEPTION)
_row = partial(Variant, input_shape=(299, 299, 3), mean=(0.5,) * 3, std=(0.5,) * 3, resize=342)

# Model, source, parameters, batch statistics, multiply-accumulates (of evaluation, without auxiliary head),
# counted on the libraries' networks.
VARIANTS = {
    "inception_v3": _row(InceptionV3, "torchvision 0.29", 27_161_264, 36_224, 5_713_216_096),
    "inception_v3_no_aux": _row(_no_aux, "torchvision 0.29, timm 1.0", 23_834_568, 34_432, 5_713_216_096),
    "inception_v3_keras": _row(_keras, "Keras 3.15", 23_817_352, 34_432, 5_713_216_096, **KERAS_PICTURES),
}
