"""U-Net: Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597.

The released forms differ. The paper's (`unet`) convolves without padding, so that a map of 572x572 comes out
as 388x388 and skips are cropped. The authors' own Caffe file has a ReLU after each up-convolution, 128
features from the last one, and the skip behind the up-convolved map; the paper and Fig. 1, which are followed
here, have none of these. Most later U-Nets pad (`unet_same`), and so keep the size of the image; the most
used of them, Pytorch-UNet (`unet_same_bn`), also has batch norm in place of biases and no dropout, and pads
an up-convolved map with zeros where an odd size was pooled. segmentation_models_pytorch (`unet_resnet18`)
takes the feature pyramid of a classifier for the contracting path and copies pixels in place of the
up-convolutions: `PyramidUNet` does so with any network of this library.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.linen.initializers import Initializer
from jax import lax
from jax.typing import DTypeLike

from flaxarch.layers import (
    Conventions,
    ConvNorm,
    ModuleDef,
    Network,
    check_images,
    inner_pyramid,
    tap,
    torch_bias,
    torch_uniform,
)
from flaxarch.models.resnet import BasicBlock, ResNet
from flaxarch.ops import max_pool
from flaxarch.variant import Variant

# Normal, std sqrt(2 / N) with N incoming nodes (Sec. 3). An up-convolution's pixel has one pixel's features
# for incoming nodes, the last axis of its kernel.
he_incoming = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_incoming_up = nn.initializers.variance_scaling(
    2.0, "fan_in", "normal", in_axis=-1, out_axis=-2, batch_axis=(0, 1)
)


class UpConvolution(nn.Module):
    """2x2 up-convolution, each pixel becoming four: (N, H, W, C) -> (N, 2H, 2W, features).

    A transposed convolution with stride 2, whose windows do not overlap, is a matrix product. The kernel is
    (2, 2, features, C), that of the convolution that it transposes: torch's (C, features, 2, 2) and Keras's
    (2, 2, features, C) become it by the rules of every other kernel.
    """

    features: int
    kernel_init: Initializer
    torch_bias: bool = False  # the bias starts uniform within ±1 / sqrt(4 * features), not at zero
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, height, width, channels = x.shape
        kernel = self.param("kernel", self.kernel_init, (2, 2, self.features, channels))
        bias_init = torch_bias(4 * self.features) if self.torch_bias else nn.initializers.zeros
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.einsum("nhwc,abfc->nhawbf", x, kernel)
        return x.reshape(n, 2 * height, 2 * width, self.features) + bias.reshape(1, 1, 1, -1)


def centred(x: jax.Array, height: int, width: int) -> jax.Array:
    """`x` cropped to, or padded with zeros to, height and width, with its centre in the centre."""
    rows, columns = height - x.shape[1], width - x.shape[2]
    pads = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), [(*pair, 0) for pair in pads])


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with a ReLU: (N, H, W, C) -> (N, H, W, features), or 4 smaller unpadded."""

    features: int
    conv: ModuleDef
    norm: ModuleDef | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in (1, 2):
            x = self.conv(self.features, (3, 3), name=f"conv{i}")(x)
            x = nn.relu(x if self.norm is None else self.norm(name=f"bn{i}")(x))
        return x


class UNet(Network):
    """Images (N, H, W, C) -> maps of logits (N, H', W', num_classes), float32; `output_size` tells H' and W'.

    Without padding, the map is of the image's middle, and height and width are such that each 2x2 max-pool
    sees an even size; with padding, the map is as large as the image, of any size from 16x16.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)  # features from the image to the bottom
    padding: int = 0  # of the 3x3 convolutions: 0 or 1
    batch_norm: bool = False
    dropout_rate: float = 0.5  # "at the end of the contracting path": after its last two stages
    up_init: Initializer = he_incoming_up
    conventions: Conventions = Conventions(conv_bias=True, kernel_init=he_incoming)

    head: ClassVar[str] = "outc"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        check_images(images, self._min_size, "this U-Net")
        self.output_size(*images.shape[1:3])
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name) if self.batch_norm else None
        double_conv = partial(DoubleConv, conv=partial(conv, padding=self.padding), norm=norm)
        up = partial(
            UpConvolution,
            kernel_init=self.up_init,
            torch_bias=self.conventions.torch_bias,
            dtype=self.dtype,
        )
        depth = len(self.widths) - 1

        x, skips = images.astype(self.dtype), []
        for i, features in enumerate(self.widths):  # contracting path
            x = max_pool(x, (2, 2), (2, 2)) if i > 0 else x
            x = double_conv(features, name=f"down{i}" if i > 0 else "inc")(x)
            if i >= depth - 1:
                x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            x = tap(self, 2**i, x)
            skips.append(x)

        for i in range(1, depth + 1):  # expansive path
            x = up(self.widths[depth - i], name=f"upconv{i}")(x)
            skip = skips[depth - i]
            size = skip.shape[1:3] if self.padding else x.shape[1:3]
            x = jnp.concatenate([centred(skip, *size), centred(x, *size)], axis=-1)
            x = double_conv(self.widths[depth - i], name=f"up{i}")(x)
            x = tap(self, 2 ** (depth - i), x)

        return conv(self.num_classes, (1, 1), use_bias=True, dtype=None, name="outc")(x)  # float32

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the map of logits; sizes that do not fit end in a sentence with the nearest."""
        if self.padding:
            return height, width
        # With b pixels at the bottom: 2^depth b + 4 (2^depth - 1) at the top.
        step = 2 ** (len(self.widths) - 1)
        shorter = [size - (size - self._min_size) % step for size in (height, width)]
        longer = [size + (self._min_size - size) % step for size in (height, width)]
        if shorter != longer:
            raise ValueError(
                f"images of {height}x{width} do not fit this U-Net, whose 2x2 max-pools need even sizes all "
                f"the way down: heights and widths are {self._min_size} + {step}n, here "
                f"{shorter[0]}x{shorter[1]} or {longer[0]}x{longer[1]}"
            )
        border = 12 * step - 8  # 184 pixels in the paper
        return height - border, width - border

    @property
    def _min_size(self) -> int:
        """The smallest height or width that leaves a pixel at the bottom and at the top."""
        step = 2 ** (len(self.widths) - 1)
        bottom = 9 - -(-4 // step)  # 8 from two pools on
        return step if self.padding else step * bottom + 4 * (step - 1)  # 188 -> 4 with the paper's four


def copy_pixels(x: jax.Array, height: int, width: int) -> jax.Array:
    """Nearest neighbour: (N, H, W, C) -> (N, height, width, C), row i from row floor(i H / height)."""
    if (height, width) == (2 * x.shape[1], 2 * x.shape[2]):
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), x.shape[1:3], strict=True))
    return x[:, rows][:, :, columns]


class DecoderBlock(nn.Module):
    """Pixels copied to the skip's size, the skip, two 3x3s: (N, H, W, C) -> (N, height, width, features)."""

    features: int
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array | None, height: int, width: int) -> jax.Array:
        x = copy_pixels(x, height, width)
        x = x if skip is None else jnp.concatenate([x, skip], axis=-1)
        for i in (1, 2):
            x = ConvNorm(self.features, (3, 3), self.conv, self.norm, padding=1, name=f"conv{i}")(x)
        return x


class PyramidUNet(Network):
    """A U-Net over the feature pyramid of any network: images -> maps of logits (N, H, W, num_classes).

    >>> model = PyramidUNet(flaxarch.create("densenet121"), num_classes=21)

    Images are of any size that the encoder takes. A skip joins at each stride at which the encoder has a
    map; the logits are float32. The encoder's variables are under "encoder": after
    `variables["params"]["encoder"] = loaded["params"]`, and the same for "batch_stats", released weights are
    in. Its head is not run, and may stay among them or not. The encoder takes dtype and axis name from the
    whole, and `gates` where it is residual.
    """

    encoder: Network
    widths: tuple[int, ...] = (256, 128, 64, 32, 16)  # features of each doubling, from the bottom to stride 1
    conventions: Conventions = Conventions(
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
    )

    head: ClassVar[str] = "outc"

    def __post_init__(self) -> None:
        encoder = self.encoder.clone(dtype=self.dtype, axis_name=self.axis_name)
        object.__setattr__(self, "encoder", encoder)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        maps = inner_pyramid(self.encoder, images, train=train, gates=gates)
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        stride = max(maps)
        if stride != 2 ** len(self.widths):
            raise ValueError(
                f"the maps of {type(self.encoder).__name__} end at stride {stride}: a U-Net over them needs "
                f"{stride.bit_length() - 1} widths, not the {len(self.widths)} of {self.widths}"
            )

        x = maps[stride]
        x = tap(self, stride, x)
        for i, features in enumerate(self.widths):
            stride //= 2
            skip = maps.get(stride)
            size = [-(-n // stride) for n in images.shape[1:3]] if skip is None else skip.shape[1:3]
            x = DecoderBlock(features, conv, norm, name=f"decoder{i}")(x, skip, *size)
            x = tap(self, stride, x)

        head = partial(
            conv, use_bias=True, kernel_init=nn.initializers.glorot_uniform(), dtype=None, name="outc"
        )
        return head(self.num_classes, (3, 3), padding=1)(x)  # float32 logits at any dtype


# Pytorch-UNet's, of torch's default initialisers; its dropout rate is none.
_PYTORCH_UNET = Conventions(kernel_init=torch_uniform, torch_bias=True)
_same = partial(UNet, padding=1)
_same_bn = partial(_same, batch_norm=True, dropout_rate=0.0, up_init=torch_uniform, conventions=_PYTORCH_UNET)
_FIG1 = "Ronneberger et al. 2015, Fig. 1"
_UNSCALED: dict[str, Any] = {"resize": None, "mean": (0.0,) * 3, "std": (1.0,) * 3}
_GREY: dict[str, Any] = {"resize": None, "mean": (0.0,), "std": (1.0,), "channels": "L"}


def _over(encoder: Network, num_classes: int, dtype: DTypeLike) -> PyramidUNet:
    return PyramidUNet(encoder, num_classes=num_classes, dtype=dtype)


_resnet18 = partial(_over, ResNet((2, 2, 2, 2), block=BasicBlock))

# Model, source, parameters, batch statistics, multiply-accumulates, by arithmetic from Fig. 1: an
# up-convolution costs 4 C features for each pixel that it reads. `unet_resnet18` is torchvision's ResNet-18
# without its 513,000 parameters of the head, and 3,151,697 of the decoder.
VARIANTS = {
    "unet": Variant(UNet, _FIG1, 31_030_658, 0, 150_428_424_448, (572, 572, 1), 2, **_GREY),
    "unet_same": Variant(_same, _FIG1, 31_030_658, 0, 192_384_335_872, (512, 512, 1), 2, **_GREY),
    "unet_same_bn": Variant(
        _same_bn, "Pytorch-UNet", 31_037_698, 11_776, 192_686_325_760, (512, 512, 3), 2, **_UNSCALED
    ),
    "unet_resnet18": Variant(
        _resnet18, "segmentation_models_pytorch", 14_328_209, 11_584, 4_132_896_768, num_classes=1
    ),
}
