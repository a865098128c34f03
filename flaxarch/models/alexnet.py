"""AlexNet: Krizhevsky, Sutskever & Hinton, NIPS 2012 (CACM 60(6), 2017, doi 10.1145/3065386), and ZFNet.

ZFNet: Zeiler & Fergus, ECCV 2014, https://arxiv.org/abs/1311.2901, Fig. 3.

The released forms differ. The network of 2012 (`alexnet_2012`) has 96-256-384-384-256 features, of which
conv2, conv4 and conv5 see half each, the half on their GPU. Its first two layers are convolution, ReLU, local
response norm, pool (Sec. 3.5; CaffeNet pools first), with an alpha that is not divided by the five channels
(Caffe and torch divide). The paper's images of 224x224 give its 55x55 maps only as 227x227. Its ungrouped
form (`alexnet_2012_ungrouped`) is what many ports build.

torchvision's (`alexnet`) is another network, the single tower of Krizhevsky's "One weird trick" (2014,
https://arxiv.org/abs/1404.5997): 64-192-384-256-256 features, 224x224 padded by two, no norm, and dropout
ahead of fc6 and fc7 rather than after them.

ZFNet has a 7x7 convolution with stride 2 first, no groups, and its norm after the pool. The paper gives the
sizes of its maps, 110, 55, 26, 13, 6; padding conv1 by one and counting each pool's partly filled last window
makes them. It states no constants of the norm: here they are those of 2012.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

import jax
from flax import linen as nn

from flaxarch.layers import Conventions, Network, check_images, local_response_norm, tap, torch_uniform
from flaxarch.ops import adaptive_avg_pool, max_pool
from flaxarch.variant import IMAGENET_MEAN, Variant

Step = Callable[[jax.Array], jax.Array]

lrn = partial(local_response_norm, size=5, alpha=1e-4, beta=0.75, k=2)
pool = partial(max_pool, window_shape=(3, 3), strides=(2, 2))  # overlapping (Sec. 3.4)
ceil_pool = partial(pool, ceil_mode=True)

TORCH_DEFAULTS = Conventions(conv_bias=True, kernel_init=torch_uniform, torch_bias=True)
GAUSSIAN = Conventions(conv_bias=True, kernel_init=nn.initializers.normal(0.01))  # Sec. 5; ZFNet, Sec. 3


class ConvLayer(NamedTuple):
    """A convolution with ReLU, and what follows it."""

    features: int
    kernel_size: int
    strides: int = 1
    padding: int = 0
    groups: int = 1
    bias: float = 0.0  # that it starts with
    steps: tuple[Step, ...] = ()


class AlexNet(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least `min_size`.

    The last map is brought to 6x6 by means, as torchvision does: any image will do.
    """

    layers: tuple[ConvLayer, ...]  # conv1 to conv5
    min_size: int  # of an image, for the last pool to have a window
    hidden_size: int = 4096  # features of fc6 and fc7
    hidden_bias: float = 0.0  # that they start with
    dropout_ahead: bool = False  # of both, not after them
    dropout_rate: float = 0.5
    conventions: Conventions = TORCH_DEFAULTS

    head: ClassVar[str] = "fc8"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        check_images(images, self.min_size, "this AlexNet")
        conv = self.conventions.conv(self.dtype)
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)

        x, stride = images.astype(self.dtype), 1
        for i, layer in enumerate(self.layers, start=1):
            x = conv(
                layer.features,
                (layer.kernel_size, layer.kernel_size),
                (layer.strides, layer.strides),
                padding=layer.padding,
                feature_group_count=layer.groups,
                bias_init=nn.initializers.constant(layer.bias),
                name=f"conv{i}",
            )(x)
            x, stride = nn.relu(x), stride * layer.strides
            x = tap(self, stride, x)
            for step in layer.steps:
                x, stride = step(x), stride if step is lrn else 2 * stride
                x = tap(self, stride, x)

        x = adaptive_avg_pool(x, (6, 6))
        for name in ("fc6", "fc7"):
            x = dropout()(x) if self.dropout_ahead else x
            bias_init = nn.initializers.constant(self.hidden_bias)
            x = nn.relu(conv(self.hidden_size, x.shape[1:3], bias_init=bias_init, name=name)(x))
            x = x if self.dropout_ahead else dropout()(x)
        x = conv(self.num_classes, (1, 1), dtype=None, name="fc8")(x)  # float32 logits at any dtype
        return x.squeeze((1, 2))


_ONE_TOWER = (
    ConvLayer(64, 11, strides=4, padding=2, steps=(pool,)),
    ConvLayer(192, 5, padding=2, steps=(pool,)),
    ConvLayer(384, 3, padding=1),
    ConvLayer(256, 3, padding=1),
    ConvLayer(256, 3, padding=1, steps=(pool,)),
)
_ZF = (
    ConvLayer(96, 7, strides=2, padding=1, steps=(ceil_pool, lrn)),
    ConvLayer(256, 5, strides=2, steps=(ceil_pool, lrn)),
    ConvLayer(384, 3, padding=1),
    ConvLayer(384, 3, padding=1),
    ConvLayer(256, 3, padding=1, steps=(ceil_pool,)),
)


def _layers_2012(groups: int) -> tuple[ConvLayer, ...]:
    return (
        ConvLayer(96, 11, strides=4, steps=(lrn, pool)),
        ConvLayer(256, 5, padding=2, groups=groups, bias=1, steps=(lrn, pool)),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1, groups=groups, bias=1),
        ConvLayer(256, 3, padding=1, groups=groups, bias=1, steps=(pool,)),
    )


_2012 = partial(AlexNet, min_size=67, hidden_bias=1.0, conventions=GAUSSIAN)
_KRIZHEVSKY = "Krizhevsky et al. 2012, Sec. 3"
_CENTRED = {"mean": IMAGENET_MEAN, "std": (1 / 255,) * 3}  # pixels from 0 to 255, less the mean

# Parameters and multiply-accumulates: torchvision's builder; for the papers' networks by arithmetic from
# Sec. 3 (its abstract says 60 million parameters) and from ZFNet's Fig. 3.
VARIANTS = {
    "alexnet": Variant(
        partial(AlexNet, _ONE_TOWER, min_size=63, dropout_ahead=True),
        "torchvision 0.29",
        num_params=61_100_840,
        num_batch_stats=0,
        macs=714_188_480,
    ),
    "alexnet_2012": Variant(
        partial(_2012, _layers_2012(groups=2)),
        _KRIZHEVSKY,
        num_params=60_965_224,
        num_batch_stats=0,
        macs=724_406_816,
        input_shape=(227, 227, 3),
        **_CENTRED,
    ),
    "alexnet_2012_ungrouped": Variant(
        partial(_2012, _layers_2012(groups=1)),
        _KRIZHEVSKY,
        num_params=62_378_344,
        num_batch_stats=0,
        macs=1_135_256_096,
        input_shape=(227, 227, 3),
        **_CENTRED,
    ),
    "zfnet": Variant(
        partial(AlexNet, _ZF, min_size=47, conventions=GAUSSIAN),
        "Zeiler & Fergus 2014, Fig. 3",
        num_params=62_357_608,
        num_batch_stats=0,
        macs=1_168_032_896,
        **_CENTRED,
    ),
}
