"""GoogLeNet, Inception v1: Szegedy et al., CVPR 2015, https://arxiv.org/abs/1409.4842.

Nine Inception modules, each of four branches side by side, and two auxiliary heads in training. The modules,
in their naive (Fig. 2a) and their reduced form (Fig. 2b), and the units that they are made of are fields.

The released forms differ. The paper's (`googlenet_paper`) has no batch norm, biases, local response
normalisation in the stem, 5x5 convolutions in the third branch and 40 % dropout. torchvision's (`googlenet`),
whose weights come from TensorFlow, has batch norm after each convolution and no bias, none of that
normalisation, 3x3 convolutions where the paper has 5x5 (a slip that its weights keep), 2x2 windows in its
last max-pool, 1024 features inside an auxiliary head, pooled to 4x4 at any size, and 20 % dropout. Each comes
without auxiliary heads too (`_no_aux`). Pools count a last, partly filled window in both, as Caffe does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import (
    Conventions,
    ConvNorm,
    ModuleDef,
    Network,
    check_images,
    local_response_norm,
    normal_torch_dense,
    tap,
)
from flaxarch.models.inception_v3 import to_half
from flaxarch.ops import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool
from flaxarch.variant import Variant


class ConvReLU(nn.Module):
    """The paper's unit, convolution and ReLU: (N, H, W, C) -> (N, H / strides, W / strides, features)."""

    features: int
    kernel_size: tuple[int, int]
    conv: ModuleDef
    norm: ModuleDef  # not used: units are interchangeable
    strides: int = 1
    padding: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(self.conv, padding=self.padding)
        return nn.relu(conv(self.features, self.kernel_size, (self.strides, self.strides), name="conv")(x))


class NormConv(nn.Module):
    """The pre-activation unit (He et al. 2016b), batch norm, ReLU, convolution; shapes as `ConvReLU`'s."""

    features: int
    kernel_size: tuple[int, int]
    conv: ModuleDef
    norm: ModuleDef
    strides: int = 1
    padding: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(self.norm(name="bn")(x))
        conv = partial(self.conv, padding=self.padding)
        return conv(self.features, self.kernel_size, (self.strides, self.strides), name="conv")(x)


class Widths(NamedTuple):
    """Features of one module's convolutions: its row in Table 1."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


class Inception(nn.Module):
    """Fig. 2b, with 1x1 reductions: (N, H, W, C) -> (N, H, W, sum of the branches' features)."""

    widths: Widths
    unit: ModuleDef
    third_kernel: int = 5  # of the third branch

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        unit, widths, k = self.unit, self.widths, self.third_kernel
        branch1 = unit(widths.conv1x1, (1, 1), name="branch1")(x)
        branch2 = unit(widths.reduce3x3, (1, 1), name="branch2_0")(x)
        branch2 = unit(widths.conv3x3, (3, 3), padding=1, name="branch2_1")(branch2)
        branch3 = unit(widths.reduce5x5, (1, 1), name="branch3_0")(x)
        branch3 = unit(widths.conv5x5, (k, k), padding=k // 2, name="branch3_1")(branch3)
        branch4 = max_pool(x, (3, 3), (1, 1), padding=1)
        branch4 = unit(widths.pool_proj, (1, 1), name="branch4_1")(branch4)
        return jnp.concatenate([branch1, branch2, branch3, branch4], axis=-1)


class NaiveInception(nn.Module):
    """Fig. 2a, without the 1x1 reductions: the pool's branch keeps all C channels, so that modules grow."""

    widths: Widths
    unit: ModuleDef
    third_kernel: int = 5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k = self.third_kernel
        branch1 = self.unit(self.widths.conv1x1, (1, 1), name="branch1")(x)
        branch2 = self.unit(self.widths.conv3x3, (3, 3), padding=1, name="branch2_1")(x)
        branch3 = self.unit(self.widths.conv5x5, (k, k), padding=k // 2, name="branch3_1")(x)
        branch4 = max_pool(x, (3, 3), (1, 1), padding=1)
        return jnp.concatenate([branch1, branch2, branch3, branch4], axis=-1)


def pool_to_4x4(x: jax.Array) -> jax.Array:
    """torchvision's pool of an auxiliary head: (N, H, W, C) -> (N, 4, 4, C), of any height and width."""
    return adaptive_avg_pool(x, (4, 4))


def pool_5x5(x: jax.Array) -> jax.Array:
    """The paper's, 5x5 with stride 3, which makes 4x4 of its 14x14; what others leave is brought to 4x4."""
    return pool_to_4x4(avg_pool(x, (5, 5), (3, 3)) if min(x.shape[1:3]) >= 5 else x)


class AuxHead(nn.Module):
    """Auxiliary classifier (Sec. 5): (N, H, W, C) -> logits (N, num_classes)."""

    num_classes: int
    pool: Callable[[jax.Array], jax.Array]
    unit: ModuleDef
    conv: ModuleDef  # with a bias
    dense: ModuleDef
    dropout: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.unit(128, (1, 1), name="conv")(self.pool(x))
        x = self.dropout()(nn.relu(self.conv(1024, x.shape[1:3], name="fc1")(x)))
        return self.dense(self.num_classes, x.shape[-1], name="fc2")(x.reshape(len(x), -1))


# Table 1: the modules of the three stages, between which a max-pool halves the map.
TABLE_1 = (
    {"3a": Widths(64, 96, 128, 16, 32, 32), "3b": Widths(128, 128, 192, 32, 96, 64)},
    {
        "4a": Widths(192, 96, 208, 16, 48, 64),
        "4b": Widths(160, 112, 224, 24, 64, 64),
        "4c": Widths(128, 128, 256, 24, 64, 64),
        "4d": Widths(112, 144, 288, 32, 64, 64),
        "4e": Widths(256, 160, 320, 32, 128, 128),
    },
    {"5a": Widths(256, 160, 320, 32, 128, 128), "5b": Widths(384, 192, 384, 48, 128, 128)},
)


def _caffe_dense(features: int, fan_in: int, *, name: str) -> nn.Dense:
    del fan_in
    return nn.Dense(features, kernel_init=nn.initializers.lecun_uniform(), name=name)


# torchvision's truncation at ±2 cuts nothing off a standard deviation of 0.01; dense biases are torch's own.
TORCH = Conventions(
    epsilon=1e-3,
    kernel_init=nn.initializers.normal(0.01),
    torch_bias=True,
    dense=normal_torch_dense(0.01),
)
# The paper names no initialiser: this is the one of the Caffe release, "xavier", variance 1 / fan_in.
CAFFE = Conventions(conv_bias=True, kernel_init=nn.initializers.lecun_uniform(), dense=_caffe_dense)


class GoogLeNet(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32, and in training (logits, (aux1, aux2)).

    H and W are at least 15, with the paper's last pool 31.

    torchvision's released weights were trained on images less 0.5, over 0.5, as its rows have it. For images
    of ImageNet's mean and standard deviation, which torchvision's own transforms give, they need
    `transform_input=True`, as torchvision sets it where it loads them; its default, as here, is False.
    """

    module: ModuleDef = partial(Inception, third_kernel=3)  # or NaiveInception
    unit: ModuleDef = ConvNorm  # of the modules: ConvNorm, ConvReLU or NormConv
    stem_unit: ModuleDef = ConvNorm  # of the stem and of the auxiliary heads
    last_norm: bool = False  # batch norm and ReLU after the last module, for units that end in a convolution
    lrn: bool = False  # local response normalisation in the stem
    last_window: int = 2  # of the last max-pool; 3 in the paper
    aux: bool = True  # with auxiliary heads
    aux_pool: Callable[[jax.Array], jax.Array] = pool_to_4x4
    dropout_rate: float = 0.2  # ahead of the last layer
    aux_dropout_rate: float = 0.7
    transform_input: bool = False  # from ImageNet's mean and standard deviation, per channel, to 0.5 and 0.5
    conventions: Conventions = TORCH

    head: ClassVar[str] = "fc"
    aux_weight: ClassVar[float] = 0.3

    @property
    def aux_heads(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The layers that give the auxiliary logits; none without `aux`."""
        return ("aux1/fc2", "aux2/fc2") if self.aux else ()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, exits: bool | None = None):
        check_images(images, 15 if self.last_window == 2 else 31, "this GoogLeNet")
        exits = (train and self.aux) if exits is None else exits
        if exits and not self.aux:
            raise ValueError("this GoogLeNet has no auxiliary heads to exit by: it is made with aux=False")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        stem_unit = partial(self.stem_unit, conv=conv, norm=norm)
        aux_head = partial(
            AuxHead,
            self.num_classes,
            self.aux_pool,
            stem_unit,
            partial(conv, use_bias=True),
            self.conventions.dense,
            partial(nn.Dropout, self.aux_dropout_rate, deterministic=not train),
        )

        x = images.astype(self.dtype)
        x = to_half(x) if self.transform_input else x
        x = stem_unit(64, (7, 7), strides=2, padding=3, name="conv1")(x)
        x = tap(self, 2, x)
        x = max_pool(x, (3, 3), (2, 2), ceil_mode=True)
        x = _lrn(x) if self.lrn else x
        x = stem_unit(64, (1, 1), name="conv2")(x)
        x = stem_unit(192, (3, 3), padding=1, name="conv3")(x)
        x = _lrn(x) if self.lrn else x
        x = tap(self, 4, x)

        aux_logits = []
        windows = ((3, 3), (3, 3), (self.last_window, self.last_window))
        for stride, modules, window in zip((8, 16, 32), TABLE_1, windows, strict=True):
            x = max_pool(x, window, (2, 2), ceil_mode=True)
            for number, widths in modules.items():
                unit = partial(self.unit, conv=conv, norm=norm)
                x = self.module(widths, unit, name=f"inception{number}")(x)
                if number in ("4a", "4d") and self.aux and (exits or self.is_initializing()):
                    aux_logits.append(aux_head(name=f"aux{len(aux_logits) + 1}")(x))
            x = tap(self, stride, x)

        if self.last_norm:
            x = nn.relu(norm(name="last_norm")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(global_avg_pool(x))
        logits = self.conventions.dense(self.num_classes, x.shape[-1], name="fc")(x)
        return (logits, tuple(aux_logits)) if exits and not self.is_initializing() else logits


def _lrn(x: jax.Array) -> jax.Array:
    """Fig. 3's LocalRespNorm; the paper gives no constants: these are the Caffe release's."""
    return local_response_norm(x, size=5, alpha=1e-4 / 5, beta=0.75, k=1.0)


_paper = partial(
    GoogLeNet,
    module=Inception,
    unit=ConvReLU,
    stem_unit=ConvReLU,
    lrn=True,
    last_window=3,
    aux_pool=pool_5x5,
    dropout_rate=0.4,
    conventions=CAFFE,
)
_HALF: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
_TV, _PAPER = "torchvision 0.29", "Szegedy et al. 2015, Table 1"

# Model, source, parameters, batch statistics, multiply-accumulates without the auxiliary heads: counted on
# torchvision's network, and for the paper's by arithmetic from Table 1, whose own columns are rounded.
VARIANTS = {
    "googlenet": Variant(GoogLeNet, _TV, 13_004_888, 15_072, 1_498_376_192, **_HALF),
    "googlenet_no_aux": Variant(
        partial(GoogLeNet, aux=False), _TV, 6_624_904, 14_560, 1_498_376_192, **_HALF
    ),
    "googlenet_paper": Variant(_paper, _PAPER, 13_378_280, 0, 1_582_671_872),
    "googlenet_paper_no_aux": Variant(partial(_paper, aux=False), _PAPER, 6_998_552, 0, 1_582_671_872),
}
