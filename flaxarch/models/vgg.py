"""VGG: Simonyan & Zisserman, ICLR 2015, https://arxiv.org/abs/1409.1556.

3x3 convolutions with ReLU, in five stages that a 2x2 max-pool ends, and three fully connected layers. Of
Table 1, A, B, D and E are `vgg11`, `vgg13`, `vgg16` and `vgg19`; A-LRN and C are `vgg11_lrn` and `vgg16_c`.

The released forms differ. torchvision's `_bn` rows put batch norm, which the paper has not, between each
convolution and its ReLU, and keep the bias. All of them bring the last map to 7x7 by means, so that the
dense head takes any image; Keras's (`vgg16_keras`) take 224x224 only, in BGR less the mean, have no
dropout, and start Glorot uniform. timm keeps fc6 and fc7 as convolutions and averages over a larger map
ahead of fc8, which is the paper's fully convolutional form. A-LRN's normalisation has Krizhevsky et al.'s
constants and, as in their paper, an alpha that is not divided by the five channels; Caffe, in which the
authors trained, divides. The CIFAR form has 512 features at 1x1 and one dense layer in place of three.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import Initializer

from flaxarch.layers import Conventions, Network, check_images, local_response_norm, tap, torch_uniform
from flaxarch.ops import adaptive_avg_pool, max_pool
from flaxarch.variant import CAFFE_IMAGES, Variant

TORCH = Conventions(conv_bias=True)
TORCH_DEFAULTS = Conventions(conv_bias=True, kernel_init=torch_uniform, torch_bias=True)
KERAS = Conventions(conv_bias=True, kernel_init=nn.initializers.glorot_uniform())


class VGG(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 32.

    With `fully_convolutional` the same variables read a larger image everywhere (Sec. 3.2): fc6 to fc8 slide
    over the last map, and the class scores are averaged over the places. At 224x224 both forms are one.
    """

    stage_sizes: tuple[int, ...]  # convolutions per stage
    last_kernels: tuple[int, ...] = (3, 3, 3, 3, 3)  # side of each stage's last kernel: 1 in configuration C
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    lrn: bool = False  # local response norm after the first convolution
    batch_norm: bool = False
    hidden_sizes: tuple[int, ...] = (4096, 4096)  # fc6, fc7
    map_size: int = 7  # side of fc6's kernel
    fully_convolutional: bool = False
    dropout_rate: float = 0.5  # after fc6 and fc7
    conventions: Conventions = TORCH
    dense_init: Initializer = nn.initializers.normal(0.01)  # of fc6 to fc8

    head: ClassVar[str] = "fc8"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        check_images(images, 2 ** len(self.stage_sizes), "a VGG")
        conv = self.conventions.conv(self.dtype)
        dense = partial(conv, kernel_init=_of_a_flat_map(self.dense_init))
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)

        x = images.astype(self.dtype)
        for i, stage in enumerate(self.conv_names()):
            for name in stage:
                side = self.last_kernels[i] if name == stage[-1] else 3
                x = conv(self.widths[i], (side, side), padding=side // 2, name=name)(x)
                if self.batch_norm:
                    x = norm(name=name.replace("conv", "bn"))(x)
                x = nn.relu(x)
                if self.lrn and name == "conv1_1":
                    x = local_response_norm(x, size=5, alpha=1e-4, beta=0.75, k=2)
            x = tap(self, 2**i, x)
            x = max_pool(x, (2, 2), (2, 2))
        x = tap(self, 2 ** len(self.stage_sizes), x)

        # a map smaller than fc6's kernel is brought to its size in either form, as in timm
        _, height, width, _ = x.shape
        side = self.map_size
        size = (max(height, side), max(width, side)) if self.fully_convolutional else (side, side)
        x = adaptive_avg_pool(x, size)
        for i, features in enumerate(self.hidden_sizes, start=6):
            x = nn.relu(dense(features, (side, side), name=f"fc{i}")(x))
            x = dropout()(x)
            side = 1
        x = dense(self.num_classes, (side, side), dtype=None, name="fc8")(x)  # float32 logits at any dtype
        return x.mean(axis=(1, 2))

    def conv_names(self) -> list[list[str]]:
        """Names of the convolutions, stage by stage: conv1_1, ..."""
        return [[f"conv{i}_{j + 1}" for j in range(size)] for i, size in enumerate(self.stage_sizes, start=1)]


def _of_a_flat_map(init: Initializer) -> Initializer:
    """What `init` draws for a dense layer of the flattened map, as the kernel (h, w, C, features)."""

    def of_a_flat_map(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        return init(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)

    return of_a_flat_map


def grow(
    shallow: VGG, variables: dict[str, Any], deep: VGG, key: jax.Array, *, std: float = 1e-2
) -> dict[str, Any]:
    """Variables for a deeper VGG, started from a trained shallower one as in Sec. 3.1.

    The first four convolutions of `shallow`, by name, and its fully connected layers are copied, with their
    batch norms; the other kernels are normal, the other biases zero. Where the four are in `deep` depends on
    their names alone: of the paper's A they are conv1_1, conv2_1, conv3_1 and conv3_2.

    Args:
      shallow: the trained network; for the paper, configuration A.
      variables: its `{"params": ..., "batch_stats": ...}`, as `flaxarch.load` returns them.
      deep: the network to start, of the same classes and fully connected layers.
      key: PRNG key of the random layers.
      std: standard deviation of the random layers. The paper prints 1e-2 as the variance; a std of 0.1 would
        make each layer of 512 features multiply its signal by five.

    Raises ValueError where a layer to copy is not in `deep`, or has another shape there.
    """
    first_four = [name for stage in shallow.conv_names() for name in stage][:4]
    copied = [*first_four, *(name.replace("conv", "bn") for name in first_four)]
    copied += [name for name in variables["params"] if name.startswith("fc")]

    channels = variables["params"]["conv1_1"]["kernel"].shape[2]
    side = 2 ** len(deep.stage_sizes)
    images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    shapes = jax.eval_shape(partial(deep.init, train=False), key, images)
    keys = dict(zip(sorted(shapes["params"]), jax.random.split(key, len(shapes["params"])), strict=True))

    def start(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        collection, module, name = (part.key for part in path)
        if module in copied:
            found = variables[collection].get(module, {}).get(name)
            if found is None or found.shape != leaf.shape:
                what = "not there" if found is None else f"{found.shape} there"
                raise ValueError(
                    f"{module}/{name} of the deep network, {leaf.shape}, is to be the shallow one's, "
                    f"but is {what}"
                )
            return found
        if name == "kernel":
            return std * jax.random.normal(keys[module], leaf.shape, leaf.dtype)
        return jnp.full(leaf.shape, name in ("scale", "var"), leaf.dtype)

    missing = sorted(set(copied) & set(variables["params"]) - set(shapes["params"]))
    if missing:
        raise ValueError(f"the deep network has no {missing[0]} to take the shallow one's")
    grown = jax.tree.map_with_path(start, shapes)
    return {"params": grown["params"], "batch_stats": grown.get("batch_stats", {})}


_A, _B, _D, _E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)
_bn = partial(VGG, batch_norm=True)
_keras = partial(VGG, dropout_rate=0.0, conventions=KERAS, dense_init=nn.initializers.glorot_uniform())
_cifar = partial(
    _bn, hidden_sizes=(), map_size=1, dropout_rate=0.0, conventions=TORCH_DEFAULTS, dense_init=torch_uniform
)
_TV, _SZ, _K = "torchvision 0.29", "Simonyan & Zisserman 2015, Table 1", "Keras 3.15"

# Model, source, parameters, batch statistics, multiply-accumulates. Table 2 prints 133M, 134M (C), 138M
# and 144M; these are counts of the libraries' networks, and of A-LRN and C by arithmetic from Table 1.
VARIANTS = {
    "vgg11": Variant(partial(VGG, _A), _TV, 132_863_336, 0, 7_609_090_048),
    "vgg11_lrn": Variant(partial(VGG, _A, lrn=True), _SZ, 132_863_336, 0, 7_609_090_048),
    "vgg13": Variant(partial(VGG, _B), _TV, 133_047_848, 0, 11_308_466_176),
    "vgg16_c": Variant(partial(VGG, _D, (3, 3, 1, 1, 1)), _SZ, 133_638_952, 0, 11_770_888_192),
    "vgg16": Variant(partial(VGG, _D), _TV, 138_357_544, 0, 15_470_264_320),
    "vgg19": Variant(partial(VGG, _E), _TV, 143_667_240, 0, 19_632_062_464),
    "vgg11_bn": Variant(partial(_bn, _A), _TV, 132_868_840, 5_504, 7_609_090_048),
    "vgg13_bn": Variant(partial(_bn, _B), _TV, 133_053_736, 5_888, 11_308_466_176),
    "vgg16_bn": Variant(partial(_bn, _D), _TV, 138_365_992, 8_448, 15_470_264_320),
    "vgg19_bn": Variant(partial(_bn, _E), _TV, 143_678_248, 11_008, 19_632_062_464),
    "vgg16_keras": Variant(partial(_keras, _D), _K, 138_357_544, 0, 15_470_264_320, **CAFFE_IMAGES),
    "vgg19_keras": Variant(partial(_keras, _E), _K, 143_667_240, 0, 19_632_062_464, **CAFFE_IMAGES),
    # the form that most CIFAR work means by VGG-16: one dense layer, no dropout
    "vgg16_bn_cifar": Variant(
        partial(_cifar, _D),
        "kuangliu/pytorch-cifar, VGG16",
        14_728_266,
        8_448,
        313_201_664,
        input_shape=(32, 32, 3),
        resize=32,
        num_classes=10,
    ),
}
