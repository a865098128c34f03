"""LeNet-5: LeCun, Bottou, Bengio & Haffner, Proceedings of the IEEE 1998.

Paper: http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf. Layers have its names: C1, S2, C3, S4, C5, F6.

The released forms differ. The paper's (`lenet5_1998`) reads 32x32 images whose background is -0.1 and whose
ink is 1.175, connects each map of C3 to some maps of S2 only (Table I), subsamples by a sum of four with a
trained coefficient and bias per map, squashes by 1.7159 tanh(2x / 3), and ends in distances to a fixed code
per class. `lenet5` is what the name means today: all of S2 to all of C3, plain means, tanh, a dense output,
28x28 images padded by 2. `lenet5_relu` is the form of the many PyTorch checkpoints for 28x28: no padding, so
that C5 reads 4x4 maps, max-pools and ReLU.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxarch.layers import Conventions, ModuleDef, Network, check_images, tap, torch_uniform
from flaxarch.ops import avg_pool, max_pool
from flaxarch.variant import Variant

Activation = Callable[[jax.Array], jax.Array]

# (x, conv, activation, name) -> x at half its height and width
Subsampling = Callable[[jax.Array, ModuleDef, Activation, str], jax.Array]


def scaled_tanh(x: jax.Array) -> jax.Array:
    """The squashing function (equation 6 and Appendix A): f(±1) = ±1, where it bends most."""
    return 1.7159 * jnp.tanh(2 / 3 * x)


def uniform_2_4(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """Uniform within ±2.4 / fan_in: the paper's initial weights (Appendix A)."""
    bound = 2.4 / math.prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def trained_sum(x: jax.Array, conv: ModuleDef, act: Activation, name: str) -> jax.Array:
    """S2 and S4: the sum of 2x2, by a trained coefficient, plus a trained bias, squashed."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return uniform_2_4(key, (4, *shape), dtype)[0]  # a unit has four inputs

    channels = x.shape[-1]  # one coefficient each: a 1x1 convolution of as many groups
    x = 4 * avg_pool(x, (2, 2), (2, 2))
    return act(conv(channels, (1, 1), feature_group_count=channels, kernel_init=init, name=name)(x))


def mean(x: jax.Array, conv: ModuleDef, act: Activation, name: str) -> jax.Array:
    """Mean of 2x2, nothing trained."""
    del conv, act, name
    return avg_pool(x, (2, 2), (2, 2))


def maximum(x: jax.Array, conv: ModuleDef, act: Activation, name: str) -> jax.Array:
    """Maximum of 2x2, nothing trained."""
    del conv, act, name
    return max_pool(x, (2, 2), (2, 2))


# Table I: the maps of S2 that each map of C3 reads, first three, then four, last all of them.
TABLE_I = {
    "three": ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    "four": (
        *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
        *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    ),
    "six": ((0, 1, 2, 3, 4, 5),),
}


class PartialC3(nn.Module):
    """C3 of the paper (Table I): (N, H, W, 6) -> (N, H - 4, W - 4, 16), each map from 3, 4 or 6 of S2's.

    One grouped convolution for each number of inputs.
    """

    conv: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        maps = []
        for number, inputs in TABLE_I.items():
            conv = partial(self.conv, feature_group_count=len(inputs), name=number)
            maps.append(conv(len(inputs), (5, 5))(x[..., np.ravel(inputs)]))
        return jnp.concatenate(maps, axis=-1)


def partial_c3(conv: ModuleDef, name: str) -> nn.Module:
    """The paper's."""
    return PartialC3(conv, name=name)


def full_c3(conv: ModuleDef, name: str) -> nn.Module:
    """Today's: each map from all of S2's."""
    return conv(16, (5, 5), name=name)


def codes(num_classes: int) -> np.ndarray:
    """Fixed codes (num_classes, 84) of +1 and -1 (Sec. II-B), the centres of the paper's output units.

    The paper draws its characters as 7x12 bitmaps, for sets of 96; the bits here are its other choice, random
    with equal chances: those of PCG64's raw stream from seed 1998, whose first numbers stay the same.
    """
    bits = np.random.PCG64(1998).random_raw(num_classes * 84) >> np.uint64(63)
    return np.where(bits == 1, 1.0, -1.0).reshape(num_classes, 84)


class LeNet5(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least those of the row.

    C5 is a convolution, so that larger images give several outputs side by side (Sec. VII): their mean.

    With `output="rbf"` a logit is minus the squared distance of F6 from the class's code (equation 7), so
    that cross-entropy is the paper's discriminative loss (equation 9), less its constant. Nothing is trained
    there. "linear" is a dense layer.
    """

    c3: Callable[[ModuleDef, str], nn.Module] = full_c3
    subsampling: Subsampling = mean
    act: Activation = jnp.tanh
    padding: int = 2  # of C1
    c5_size: int = 5  # of C5's kernel
    output: str = "linear"  # or "rbf"
    conventions: Conventions = Conventions(conv_bias=True, kernel_init=torch_uniform, torch_bias=True)

    head: ClassVar[str] = "output"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train  # nothing here differs in training
        if self.output not in ("rbf", "linear"):
            raise ValueError(f'the output of a LeNet-5 is "rbf" or "linear", not {self.output!r}')
        check_images(images, 4 * self.c5_size + 12 - 2 * self.padding, "this LeNet-5")
        conv = self.conventions.conv(self.dtype)

        x = self.act(conv(6, (5, 5), padding=self.padding, name="c1")(images.astype(self.dtype)))
        x = tap(self, 1, x)
        x = self.subsampling(x, conv, self.act, "s2")
        x = self.act(self.c3(conv, "c3")(x))
        x = tap(self, 2, x)
        x = self.subsampling(x, conv, self.act, "s4")
        x = tap(self, 4, x)
        x = self.act(conv(120, (self.c5_size, self.c5_size), name="c5")(x))
        x = self.act(conv(84, (1, 1), name="f6")(x))

        if self.output == "rbf":
            distances = x[..., None, :].astype(jnp.promote_types(x.dtype, jnp.float32))
            distances = distances - codes(self.num_classes).astype(distances.dtype)[None, None, None]
            logits = -(distances**2).sum(axis=-1)
        else:
            logits = self.conventions.dense(self.num_classes, 84, name="output")(x)
        return logits.mean(axis=(1, 2))  # float32 at any dtype


LECUN = Conventions(conv_bias=True, kernel_init=uniform_2_4)
_1998 = partial(
    LeNet5,
    c3=partial_c3,
    subsampling=trained_sum,
    act=scaled_tanh,
    padding=0,
    output="rbf",
    conventions=LECUN,
)
_relu = partial(LeNet5, subsampling=maximum, act=nn.relu, padding=0, c5_size=4)
_row = partial(Variant, num_batch_stats=0, num_classes=10, channels="L")
_mnist = partial(_row, input_shape=(28, 28, 1), mean=(0.1307,), std=(0.3081,), resize=28)

# Parameters: the paper's per layer are 156, 12, 1,516, 32, 48,120 and 10,164, and the rest, as all of the
# multiply-accumulates, arithmetic. Those of S2 and S4 count one for each of their outputs.
VARIANTS = {
    "lenet5": _mnist(LeNet5, "LeCun et al. 1998, as usual today", 61_706, macs=416_520),
    "lenet5_relu": _mnist(_relu, "FYH620/lenet-mnist-openvino", 44_426, macs=281_640),
    "lenet5_1998": _row(
        _1998,
        "LeCun et al. 1998, Sec. II-B",
        60_000,
        macs=327_256,
        input_shape=(32, 32, 1),
        mean=(0.1 / 1.275,),  # 0, the background in MNIST's files, becomes -0.1, and 1 becomes 1.175
        std=(1 / 1.275,),
        resize=32,
    ),
}
