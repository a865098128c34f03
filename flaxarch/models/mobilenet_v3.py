"""MobileNetV3: Howard et al., ICCV 2019, https://arxiv.org/abs/1905.02244.

The released forms differ. torchvision's (`mobilenet_v3_large`) have epsilon 1e-3 and momentum 0.99; timm's
(`mobilenet_v3_large_timm`) epsilon 1e-5, momentum 0.9 and no dropout; Keras's (`mobilenet_v3_large_keras`)
epsilon 1e-3, momentum 0.999 and TensorFlow's padding. Keras's rescale pixels inside the network: here that is
the row's mean and std. All three squeeze to a quarter of a block's inner features (Sec. 5.3), rounded to a
multiple of eight, through a ReLU and a hard sigmoid. A scaled network keeps the stem's 16 features, and the
1280 or 1024 ahead of its classifier. The minimalistic form, from the authors' code, has 3x3 kernels, ReLUs
and no squeeze-and-excitation.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from flax import linen as nn

from flaxarch.layers import Conventions, ConvNorm, check_images, normal_dense
from flaxarch.models.mobilenet_v2 import KERAS, Block, InvertedResiduals, make_divisible
from flaxarch.ops import global_avg_pool
from flaxarch.variant import KERAS_PICTURES, Variant


class Row(NamedTuple):
    """A row of Tables 1 and 2: kernel, exp size, #out, SE, NL, s."""

    kernel_size: int
    expanded: int
    features: int
    squeeze_excite: bool
    act: Callable[[jax.Array], jax.Array]
    strides: int


_RE, _HS = nn.relu, nn.hard_swish
LARGE = (  # Table 1
    Row(3, 16, 16, False, _RE, 1),
    Row(3, 64, 24, False, _RE, 2),
    Row(3, 72, 24, False, _RE, 1),
    Row(5, 72, 40, True, _RE, 2),
    Row(5, 120, 40, True, _RE, 1),
    Row(5, 120, 40, True, _RE, 1),
    Row(3, 240, 80, False, _HS, 2),
    Row(3, 200, 80, False, _HS, 1),
    Row(3, 184, 80, False, _HS, 1),
    Row(3, 184, 80, False, _HS, 1),
    Row(3, 480, 112, True, _HS, 1),
    Row(3, 672, 112, True, _HS, 1),
    Row(5, 672, 160, True, _HS, 2),
    Row(5, 960, 160, True, _HS, 1),
    Row(5, 960, 160, True, _HS, 1),
)
SMALL = (  # Table 2
    Row(3, 16, 16, True, _RE, 2),
    Row(3, 72, 24, False, _RE, 2),
    Row(3, 88, 24, False, _RE, 1),
    Row(5, 96, 40, True, _HS, 2),
    Row(5, 240, 40, True, _HS, 1),
    Row(5, 240, 40, True, _HS, 1),
    Row(5, 120, 48, True, _HS, 1),
    Row(5, 144, 48, True, _HS, 1),
    Row(5, 288, 96, True, _HS, 2),
    Row(5, 576, 96, True, _HS, 1),
    Row(5, 576, 96, True, _HS, 1),
)


def minimalistic(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The same widths with 3x3 kernels and ReLUs, and without squeeze-and-excitation."""
    return tuple(row._replace(kernel_size=3, squeeze_excite=False, act=nn.relu) for row in rows)


class MobileNetV3(InvertedResiduals):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 32.

    `gates` (num_blocks,) or (num_blocks, N) multiply the branches of the blocks that have a shortcut.
    """

    rows: tuple[Row, ...] = LARGE
    hidden_features: int = 1280  # of the layer ahead of the classifier
    act: Callable[[jax.Array], jax.Array] = nn.hard_swish  # outside of the blocks
    conventions: Conventions = Conventions(epsilon=1e-3, momentum=0.99, dense=normal_dense(0.01))

    def blocks(self) -> tuple[Block, ...]:
        """All blocks, from the first to the last: a row's expansion is of its input as it is scaled."""
        found, channels, unscaled = [], 16, 16
        for row in self.rows:
            expanded = make_divisible(row.expanded / unscaled * channels)
            features = make_divisible(row.features * self.width_multiplier)
            block = Block(channels, expanded, features, row.strides)
            found.append(
                block._replace(kernel_size=row.kernel_size, act=row.act, squeeze_excite=row.squeeze_excite)
            )
            channels, unscaled = features, row.features
        return tuple(found)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        check_images(images, 32, "a MobileNetV3")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        unit = partial(ConvNorm, conv=conv, norm=norm, act=self.act)

        stem = partial(unit, strides=2, padding="SAME" if self.same_padding else 1, name="stem")
        x = stem(16, (3, 3))(images.astype(self.dtype))
        x = self.body(x, conv, norm, train=train, gates=gates)
        x = unit(make_divisible(6 * x.shape[-1]), (1, 1), name="last")(x)
        x = global_avg_pool(x)  # ahead of the last expensive layers (Fig. 5)
        x = self.act(self.conventions.dense(self.hidden_features, x.shape[-1], name="hidden")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="classifier")
        return dense(x)  # float32 logits at any dtype


_small = partial(MobileNetV3, rows=SMALL, hidden_features=1024)
_TIMM_CONVENTIONS = Conventions(dense=normal_dense(0.01))
_timm_large, _timm_small = (
    partial(net, dropout_rate=0.0, conventions=_TIMM_CONVENTIONS) for net in (MobileNetV3, _small)
)
_keras_large, _keras_small = (
    partial(net, same_padding=True, conventions=KERAS) for net in (MobileNetV3, _small)
)
_minimal_large = partial(_keras_large, rows=minimalistic(LARGE), act=nn.relu)
_minimal_small = partial(_keras_small, rows=minimalistic(SMALL), act=nn.relu)
_tv = partial(Variant, source="torchvision 0.29")
_timm = partial(Variant, source="timm 1.0", interpolation="bicubic")
_k = partial(Variant, source="Keras 3.15", mean=(0.5,) * 3, std=(0.5,) * 3, **KERAS_PICTURES)  # in [-1, 1]


def _counts(num_params: int, num_batch_stats: int, macs: int) -> dict[str, int]:
    return {"num_params": num_params, "num_batch_stats": num_batch_stats, "macs": macs}


# Counted on the libraries' networks.
_LARGE = _counts(5_483_032, 24_400, 216_589_760)
_LARGE_075 = _counts(3_993_528, 19_088, 154_560_624)
_LARGE_MINIMALISTIC = _counts(3_924_288, 24_400, 209_136_704)
_SMALL = _counts(2_542_856, 12_112, 56_510_400)
_SMALL_075 = _counts(2_041_872, 9_680, 43_399_344)
_SMALL_050 = _counts(1_593_224, 6_496, 24_188_688)
_SMALL_MINIMALISTIC = _counts(2_044_736, 12_112, 52_288_448)
VARIANTS = {
    "mobilenet_v3_large": _tv(partial(MobileNetV3, 1.0), **_LARGE),
    "mobilenet_v3_small": _tv(partial(_small, 1.0), **_SMALL),
    "mobilenet_v3_large_timm": _timm(partial(_timm_large, 1.0), **_LARGE),
    "mobilenet_v3_large_075": _timm(partial(_timm_large, 0.75), **_LARGE_075, interpolation="bilinear"),
    "mobilenet_v3_small_timm": _timm(partial(_timm_small, 1.0), **_SMALL),
    "mobilenet_v3_small_075": _timm(partial(_timm_small, 0.75), **_SMALL_075),
    "mobilenet_v3_small_050": _timm(partial(_timm_small, 0.5), **_SMALL_050),
    "mobilenet_v3_large_keras": _k(partial(_keras_large, 1.0), **_LARGE),
    "mobilenet_v3_large_075_keras": _k(partial(_keras_large, 0.75), **_LARGE_075),
    "mobilenet_v3_large_minimalistic_keras": _k(partial(_minimal_large, 1.0), **_LARGE_MINIMALISTIC),
    "mobilenet_v3_small_keras": _k(partial(_keras_small, 1.0), **_SMALL),
    "mobilenet_v3_small_075_keras": _k(partial(_keras_small, 0.75), **_SMALL_075),
    "mobilenet_v3_small_minimalistic_keras": _k(partial(_minimal_small, 1.0), **_SMALL_MINIMALISTIC),
}
