"""Pre-activation ResNet: He et al., ECCV 2016, https://arxiv.org/abs/1603.05027.

Batch norm and ReLU stand ahead of each convolution (Fig. 4e) and nothing behind the sum, so that x_L is x_l
plus the branches between (equation 4). The paper's other placements (Fig. 4) and shortcuts (Fig. 2, Table 1)
are values of `activation` and `shortcut`, for any network here: `preact_unit.py` has them.

The released forms differ. The paper's (`preact_*`) have the first activation right behind the first
convolution, ahead of the first unit's split (Appendix); where a unit changes the shape, both paths read the
activated input, the shortcut through a bare 1x1 convolution, and a bottleneck's stride is on its first 1x1,
as in the authors' code. Networks of basic blocks have option A. pytorchcv's (`preact_resnet164_pytorchcv`)
have the stride on the 3x3, with the same parameters and 3,145,728 more MACs at 32x32; those of basic blocks
have projections, and the first unit's shortcut is not activated. timm's (`resnetv2_*`) do nothing ahead of
the stem's max-pool, so that the first shortcut of a basic block is not activated, and have the stride on the
3x3. Keras's (`resnet*v2_keras`) have it on the 3x3 of a stage's last unit, where the shortcut takes every
second pixel; zeros that count around the max-pool, whose input has negative values; biases on the first
convolution, the shortcuts and the last 1x1s; and epsilon 1.001e-5. timm and Keras scale images to [-1, 1].
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.layers import Conventions, ModuleDef, Network, check_images, normal_dense, tap, uniform_dense
from flaxarch.loops import Loops, check_form, loops_of, scan_blocks
from flaxarch.models.cifar_resnet import stage_sizes
from flaxarch.models.preact_unit import (
    FULL_PREACT,
    Activation,
    Branch,
    Shortcut,
    Unit,
    basic,
    bottleneck,
    identity,
    projection,
    run_layers,
    strided_identity,
)
from flaxarch.models.resnet import KERAS, Stem
from flaxarch.ops import global_avg_pool, max_pool
from flaxarch.residual import block_gates
from flaxarch.variant import CIFAR10_MEAN, CIFAR10_STD, KERAS_PICTURES, Variant


@dataclass(frozen=True)
class PreActStem(Stem):
    """A stem whose `layers` are (network, images, conv, activate); `activates` the first unit's input."""

    activates: bool = True


def _conv7x7(images: jax.Array, conv: ModuleDef, *, use_bias: bool = False) -> jax.Array:
    return conv(64, (7, 7), (2, 2), padding=3, use_bias=use_bias, name="conv1")(images)


def _imagenet_stem(network: Any, images: jax.Array, conv: ModuleDef, activate: ModuleDef) -> jax.Array:
    """7x7 convolution with stride 2, 3x3 max-pool with stride 2: (N, H / 4, W / 4, 64)."""
    x = activate(_conv7x7(images, conv))
    tap(network, 2, x)
    return max_pool(x, (3, 3), (2, 2), padding=1)


def _keras_stem(network: Any, images: jax.Array, conv: ModuleDef, activate: ModuleDef) -> jax.Array:
    """The same with a bias, and a max-pool over padded zeros."""
    x = activate(_conv7x7(images, conv, use_bias=True))
    tap(network, 2, x)
    return max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))


def _cifar_stem(network: Any, images: jax.Array, conv: ModuleDef, activate: ModuleDef) -> jax.Array:
    """One 3x3 convolution: (N, H, W, 16)."""
    del network
    return activate(conv(16, (3, 3), padding=1, name="conv1")(images))


imagenet_stem = PreActStem(4, _imagenet_stem)
timm_stem = PreActStem(4, _imagenet_stem, activates=False)
keras_stem = PreActStem(4, _keras_stem, activates=False)
cifar_stem = PreActStem(1, _cifar_stem)
bare_cifar_stem = PreActStem(1, _cifar_stem, activates=False)

AUTHORS = Conventions(dense=uniform_dense)


class PreActResNet(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least the output stride.

    `gates` (num_units,) or (num_units, N) multiply the residual branches.
    """

    stage_sizes: tuple[int, ...]  # units per stage
    branch: Branch
    widths: tuple[int, ...]  # features of the units, per stage
    stem: PreActStem
    shortcut: Shortcut = projection
    activation: Activation = FULL_PREACT
    stride_last: bool = False  # a stage's stride is its last unit's, not the next stage's first
    conventions: Conventions = AUTHORS
    survival_prob: float = 1.0  # stochastic depth: chance that the last unit is kept
    scan: bool = False  # a stage's units of one shape in a loop, over stacked variables: `flaxarch.loops`
    momentum: float | None = None  # of these, in the reversible form (Sander et al. 2021); None: as they are

    head: ClassVar[str] = "fc"

    @nn.nowrap
    def loops(self) -> Loops:
        """The names of the units that run in a loop with `scan`, for each stage."""
        return loops_of(self.stage_sizes, stride_last=self.stride_last)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        num_stages, stride = len(self.stage_sizes), self.stem.stride
        check_images(images, stride * 2 ** (num_stages - 1), "this pre-activation ResNet")
        check_form(self)
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        dropout = partial(nn.Dropout, deterministic=not train)
        unit = partial(Unit, branch=self.branch, activation=self.activation, shortcut=self.shortcut)
        unit = partial(unit, conv=conv, norm=norm, dropout=dropout)
        gate = iter(block_gates(self, gates, num_blocks=sum(self.stage_sizes), train=train))
        is_looped = self.scan or (self.momentum is not None and not self.is_initializing())

        def activate(x: jax.Array) -> jax.Array:
            first = self.activation.before if self.stem.activates else ()
            return run_layers((*self.activation.after, *first), x, norm, "norm1")

        x = self.stem.layers(self, images.astype(self.dtype), conv, activate)
        stages = zip(self.stage_sizes, self.widths, self.loops(), strict=True)
        for i, (num_units, features, alike) in enumerate(stages, start=1):
            for j, name in enumerate(f"layer{i}_{j}" for j in range(num_units)):
                if is_looped and name in alike:
                    if name == alike[0]:
                        alone, of_alike = unit(features, parent=None), [next(gate) for _ in alike]
                        loop = partial(scan_blocks, self, alone, alike, stacked=self.scan)
                        x = loop(x, of_alike, momentum=self.momentum)
                    continue
                halves = (i < num_stages and j == num_units - 1) if self.stride_last else (i > 1 and j == 0)
                strides, is_first = 2 if halves else 1, (i, j) == (1, 0)
                x = unit(features, strides=strides, is_activated=is_first and self.stem.activates, name=name)(
                    x, next(gate)
                )
                stride *= strides
                x = tap(self, stride, x)
            x = tap(self, stride, x)

        x = run_layers(self.activation.before, x, norm, "norm")
        x = tap(self, stride, x)
        x = global_avg_pool(x)
        dense = self.conventions.dense(self.num_classes, x.shape[-1], name="fc")
        return dense(x)  # float32 logits at any dtype


def bottleneck_sizes(depth: int) -> tuple[int, int, int]:
    """Units per stage of the CIFAR network of `depth` = 9n + 2 layers: (n, n, n)."""
    n, rest = divmod(depth - 2, 9)
    if n < 1 or rest:
        raise ValueError(f"depth {depth} is not 9n + 2 (three layers a unit, three stages), as 164 or 1001")
    return n, n, n


# For images (N, H, W, C) of about 32x32; H and W at least 4. Of any depth: `CifarPreAct(stage_sizes(20))`.
CifarPreAct = partial(
    PreActResNet, branch=basic, widths=(16, 32, 64), stem=cifar_stem, shortcut=identity, num_classes=10
)
CifarPreActBottleneck = partial(
    PreActResNet,
    branch=partial(bottleneck, stride_first=True),
    widths=(64, 128, 256),
    stem=cifar_stem,
    num_classes=10,
)
_basic = partial(PreActResNet, branch=basic, widths=(64, 128, 256, 512))
_bottleneck = partial(PreActResNet, branch=bottleneck, widths=(256, 512, 1024, 2048))
_timm: dict[str, Any] = {"stem": timm_stem, "conventions": Conventions(dense=normal_dense(0.01))}
_keras = partial(
    _bottleneck,
    branch=partial(bottleneck, last_bias=True),
    stem=keras_stem,
    shortcut=strided_identity,
    stride_last=True,
    conventions=replace(KERAS, conv_bias=False),
)
_paper = partial(_bottleneck, branch=partial(bottleneck, stride_first=True), stem=imagenet_stem)
_18, _34, _50, _101, _152 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
_200 = (3, 24, 36, 3)  # "16 more units than ResNet-152, on the feature map of 28x28" (Appendix)


_CIFAR: dict[str, Any] = {
    "input_shape": (32, 32, 3),
    "num_classes": 10,
    "resize": 32,
    "mean": CIFAR10_MEAN,
    "std": CIFAR10_STD,
}
_signed = partial(Variant, mean=(0.5,) * 3, std=(0.5,) * 3)  # pixels in [-1, 1]
_timm_row, _keras_row = partial(_signed, interpolation="bicubic"), partial(_signed, **KERAS_PICTURES)
_HE, _T, _K, _CV = "He et al. 2016b, Table", "timm 1.0", "Keras 3.15", "pytorchcv 0.0.74"


def _projected(depth: int, num_params: int, num_batch_stats: int, macs: int) -> Variant:
    """pytorchcv's: basic blocks, projections, and nothing between the first convolution and unit."""
    network = partial(CifarPreAct, stage_sizes(depth), stem=bare_cifar_stem, shortcut=projection)
    return Variant(network, _CV, num_params, num_batch_stats, macs, **_CIFAR)


# Parameters, batch statistics, multiply-accumulates: counted on the libraries' networks; the paper's by
# arithmetic (it prints 1.7M for 110 and 164, 10.2M for 1001). 110 has ResNet-110's: a norm of 64 ahead of the
# head stands for those that are narrower where features double. 200 is ResNet-200 without norms on its
# projections.
VARIANTS = {
    "preact_resnet110": Variant(
        partial(CifarPreAct, stage_sizes(110)), f"{_HE} 2", 1_727_962, 8_096, 252_887_680, **_CIFAR
    ),
    "preact_resnet164": Variant(
        partial(CifarPreActBottleneck, bottleneck_sizes(164)),
        f"{_HE} 2",
        1_703_258,
        24_224,
        244_500_992,
        **_CIFAR,
    ),
    "preact_resnet164_pytorchcv": Variant(
        partial(CifarPreActBottleneck, bottleneck_sizes(164), branch=bottleneck),
        _CV,
        1_703_258,
        24_224,
        247_646_720,
        **_CIFAR,
    ),
    "preact_resnet20_pytorchcv": _projected(20, 272_282, 1_376, 40_813_184),
    "preact_resnet56_pytorchcv": _projected(56, 855_578, 4_064, 125_747_840),
    "preact_resnet110_pytorchcv": _projected(110, 1_730_522, 8_096, 253_149_824),
    "preact_resnet1001": Variant(
        partial(CifarPreActBottleneck, bottleneck_sizes(1001)),
        f"{_HE} 4",
        10_327_706,
        149_216,
        1_487_849_984,
        **_CIFAR,
    ),
    "preact_resnet200": Variant(partial(_paper, _200), f"{_HE} 5", 64_666_152, 168_320, 14_776_270_848),
    "resnetv2_18": _timm_row(partial(_basic, _18, **_timm), _T, 11_687_720, 7_808, 1_814_073_344, resize=248),
    "resnetv2_34": _timm_row(
        partial(_basic, _34, **_timm), _T, 21_795_880, 15_232, 3_663_761_408, resize=248
    ),
    "resnetv2_50": _timm_row(
        partial(_bottleneck, _50, **_timm), _T, 25_549_352, 45_440, 4_089_184_256, resize=235
    ),
    "resnetv2_101": _timm_row(
        partial(_bottleneck, _101, **_timm), _T, 44_541_480, 97_664, 7_801_405_440, resize=235
    ),
    "resnetv2_152": _timm_row(
        partial(_bottleneck, _152, **_timm), _T, 60_185_128, 143_744, 11_513_626_624, resize=256
    ),
    "resnet50v2_keras": _keras_row(partial(_keras, _50), _K, 25_568_360, 45_440, 3_482_255_360),
    "resnet101v2_keras": _keras_row(partial(_keras, _101), _K, 44_577_896, 97_664, 7_194_476_544),
    "resnet152v2_keras": _keras_row(partial(_keras, _152), _K, 60_236_904, 143_744, 10_906_697_728),
}
