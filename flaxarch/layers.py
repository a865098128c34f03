"""What two or more families share: conventions of their layers, feature pyramids, checks."""

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.linen.initializers import Initializer
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from flaxarch import ops

ModuleDef = Callable[..., Any]  # a module class, with some of its fields bound by `partial`

# Normal, std sqrt(2 / (kernel area * features)): He et al. 2015b, as in torchvision's ResNets and VGGs.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


# Uniform within ±1 / sqrt(fan_in): torch's default for convolutions and dense layers.
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Initializer:
    """Uniform within ±1 / sqrt(fan_in): torch's default bias of a layer with so many inputs a unit."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def torch_dense(features: int, fan_in: int, *, name: str) -> nn.Dense:
    """A dense layer that starts as torch's Linear: kernel and bias uniform within ±1 / sqrt(fan_in)."""
    return nn.Dense(features, kernel_init=torch_uniform, bias_init=torch_bias(fan_in), name=name)


def normal_dense(std: float) -> Callable[..., nn.Dense]:
    """Makes dense layers that start with a normal kernel of standard deviation `std`, and bias zero."""

    def dense(features: int, fan_in: int, *, name: str) -> nn.Dense:
        del fan_in
        return nn.Dense(features, kernel_init=nn.initializers.normal(std), name=name)

    return dense


def uniform_dense(features: int, fan_in: int, *, name: str) -> nn.Dense:
    """A dense layer that starts with torch's uniform kernel, and bias zero: fb.resnet.torch and its kin."""
    del fan_in
    return nn.Dense(features, kernel_init=torch_uniform, name=name)


def normal_torch_dense(std: float) -> Callable[..., nn.Dense]:
    """Makes dense layers that start with a normal kernel of standard deviation `std`, and torch's bias."""

    def dense(features: int, fan_in: int, *, name: str) -> nn.Dense:
        kernel_init = nn.initializers.normal(std)
        return nn.Dense(features, kernel_init=kernel_init, bias_init=torch_bias(fan_in), name=name)

    return dense


def keras_dense(features: int, fan_in: int, *, name: str) -> nn.Dense:
    """A dense layer that starts as Keras's Dense: Glorot uniform kernel, bias zero."""
    del fan_in
    return nn.Dense(features, kernel_init=nn.initializers.glorot_uniform(), name=name)


class Network(nn.Module, kw_only=True):
    """What all networks here are: linen modules from images (N, H, W, C) to logits, with these fields.

    `__call__(images, *, train)` returns float32 logits (N, num_classes), without softmax. A network with
    auxiliary heads takes `exits` too, and returns (logits, aux_logits) where it is true; None, its default,
    is true in training only. `aux_logits` is a tuple, from the first exit to the last.
    Networks for segmentation, the U-Nets, return maps of logits (N, H', W', num_classes).
    """

    num_classes: int = 1000
    dtype: DTypeLike = jnp.float32  # of the computation; parameters and batch statistics are float32
    axis_name: str | None = None  # mapped axis of devices over which batch norm takes its statistics

    head: ClassVar[str]  # the module that gives the logits
    aux_heads: ClassVar[tuple[str, ...]] = ()  # the modules that give the auxiliary logits, in that order
    aux_weight: ClassVar[float] = 0.0  # in the training loss, of each auxiliary head's loss


def _promote_for_conv(inputs: Any, kernel: Any, bias: Any, *, dtype: Any) -> Any:
    """To the type of the computation; on a CPU not the bias: its gradient would be summed in bfloat16."""
    if ops.native_forms():
        return promote_dtype(inputs, kernel, bias, dtype=dtype)
    return *promote_dtype(inputs, kernel, dtype=dtype), bias


class Conv(nn.Conv):
    """`nn.Conv` which, given another number of channels than its parameters have, says so in a sentence."""

    promote_dtype: Any = _promote_for_conv
    torch_bias: bool = False  # the bias starts uniform within ±1 / sqrt(fan_in)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        if self.has_variable("params", "kernel"):
            channels = self.get_variable("params", "kernel").shape[-2] * self.feature_group_count
            if inputs.shape[-1] != channels:
                raise ValueError(
                    f"{'/'.join(self.path)} has parameters for {channels} channels and is given "
                    f"{inputs.shape[-1]}: the images need as many channels as those of `init`"
                )
        y = super().__call__(inputs)
        return y if self.dtype is None else y.astype(self.dtype)

    def param(self, name: str, init_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if name == "bias" and self.torch_bias:
            init_fn = torch_bias(math.prod(self.get_variable("params", "kernel").shape[:-1]))
        return super().param(name, init_fn, *args, **kwargs)


class BatchNorm(nn.BatchNorm):
    """`nn.BatchNorm` over all but the last axis, in one pass without cancellation: (..., C) -> (..., C).

    var = E[(x - s)^2] - E[x - s]^2 with s the running mean. With s = 0, as `nn.BatchNorm` has it, features of
    mean m and deviation d lose (m / d)^2 times float32's rounding; here m is only by how much the batch's
    mean differs from the running one. A second pass for the variance would lose nothing even in the first
    step, but reads all features once more, which is what batch norm takes its time for.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, size, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, size, jnp.float32)
        mean, var = running_mean.value, running_var.value
        if not self.use_running_average:
            axis_name = None if self.is_initializing() else self.axis_name
            offset, square = ops.moments(x, mean)
            if axis_name is not None:
                both = jnp.stack([offset, square])  # one message
                offset, square = lax.pmean(both, axis_name, axis_index_groups=self.axis_index_groups)
            var = jnp.maximum(square - offset * offset, 0.0)  # rounding could take it below
            mean = mean + offset
            if not self.is_initializing():
                running_mean.value += (1 - self.momentum) * offset
                running_var.value += (1 - self.momentum) * (var - running_var.value)
        factor = lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            factor *= self.param("scale", self.scale_init, size, self.param_dtype)
        bias = self.param("bias", self.bias_init, size, self.param_dtype) if self.use_bias else None
        return ops.scale_and_shift(x, mean, factor, bias).astype(self.dtype)


class ConvNorm(nn.Module):
    """Convolution, batch norm, activation: (N, H, W, C) -> (N, H / strides, W / strides, features)."""

    features: int
    kernel_size: tuple[int, int]
    conv: ModuleDef
    norm: ModuleDef
    strides: int = 1
    padding: Any = 0  # as `nn.Conv` takes it
    groups: int = 1
    act: Callable[[jax.Array], jax.Array] | None = nn.relu  # None: none

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(self.conv, padding=self.padding, feature_group_count=self.groups)
        x = conv(self.features, self.kernel_size, (self.strides, self.strides), name="conv")(x)
        x = self.norm(name="bn")(x)
        return x if self.act is None else self.act(x)


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole image says of them: (N, H, W, C) -> (N, H, W, C).

    Hu et al. 2018, Sec. 3 and Fig. 3, https://arxiv.org/abs/1709.01507. Both 1x1 convolutions have biases.
    """

    inner: int  # features between the two; C / 16 in the paper
    conv: ModuleDef
    act: Callable[[jax.Array], jax.Array] = nn.relu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        s = x.mean(axis=(1, 2), keepdims=True)
        s = self.act(self.conv(self.inner, (1, 1), use_bias=True, name="fc1")(s))
        s = self.conv(x.shape[-1], (1, 1), use_bias=True, name="fc2")(s)
        return x * self.gate(s)


@dataclass(frozen=True)
class Conventions:
    """What all layers of a released network have in common: biases, initialisers, batch norm's constants.

    `momentum` is Flax's and Keras's, the share of the old statistics: torch's 0.1 is 0.9 here.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    conv_bias: bool = False
    norm_scale: bool = True  # Keras's Inceptions have none
    kernel_init: Initializer = he_fan_out
    torch_bias: bool = False  # a convolution's bias starts uniform within ±1 / sqrt(fan_in), not at zero
    dense: Callable[..., nn.Dense] = torch_dense
    frozen: bool = False  # batch norm by its running statistics in training too
    groups: tuple[tuple[int, ...], ...] | None = None  # of devices that take batch statistics together

    def conv(self, dtype: DTypeLike) -> ModuleDef:
        """`nn.Conv` for these conventions; strided and padded uses state their padding."""
        return partial(
            Conv,
            padding=0,
            use_bias=self.conv_bias,
            kernel_init=self.kernel_init,
            torch_bias=self.torch_bias,
            dtype=dtype,
            conv_general_dilated=ops.conv_general_dilated,
        )

    def norm(self, train: bool, dtype: DTypeLike, axis_name: str | None) -> ModuleDef:
        """`nn.BatchNorm` for these conventions; statistics are float32 or wider.

        `axis_name` names the mapped axis of devices over which the statistics are taken, if any; with
        `groups`, each group of them takes its own.
        """
        return partial(
            BatchNorm,
            use_running_average=self.frozen or not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            use_scale=self.norm_scale,
            dtype=dtype,
            axis_name=axis_name,
            axis_index_groups=self.groups,
        )


TORCH = Conventions()


def local_response_norm(x: jax.Array, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    """x / (k + alpha * sum of squares over `size` neighbouring channels)^beta.

    Krizhevsky et al. 2012, Sec. 3.3. The paper and TensorFlow do not divide alpha by `size`; Caffe and torch
    do: give alpha / size for theirs.
    """
    before = size // 2
    pads = ((0, 0), (0, 0), (0, 0), (before, size - 1 - before))
    total = lax.reduce_window(x * x, 0.0, lax.add, (1, 1, 1, size), (1, 1, 1, 1), pads)
    return x * (k + alpha * total) ** -beta


# Takes the feature maps of a network that runs inside another one: see `inner_pyramid`.
_taker: ContextVar[Callable[[int, jax.Array], None] | None] = ContextVar("taker", default=None)


def tap(module: nn.Module, stride: int, x: jax.Array) -> jax.Array:
    """Offer `x` as the network's feature map at `stride`; the last one offered at a stride stands.

    Costs nothing unless the collection "features" is asked for, as `flaxarch.features` does. What is returned
    is `x`, under the name "stage" for `jax.checkpoint_policies`.
    """
    x = checkpoint_name(x, "stage")
    if (take := _taker.get()) is not None:
        take(stride, x)
    elif not module.is_initializing():
        module.sow("features", f"stride{stride}", x, reduce_fn=lambda _, new: new, init_fn=lambda: x)
    return x


class _LastMapTaken(Exception):  # no error: ends a network's call where its pyramid ends
    pass


def inner_pyramid(
    network: "Network", images: jax.Array, *, train: bool, gates: jax.Array | None = None
) -> dict[int, jax.Array]:
    """The feature pyramid {stride: map} of a network that is a module of another, as a U-Net's encoder is.

    Its batch norms move and its dropout draws as in any module. What comes after its last map, the head,
    neither runs nor has parameters. The maps are handed over while the network is traced: what a module
    sows, only the caller of the outermost `apply` can read.
    """
    maps: dict[int, jax.Array] = {}
    unbound: Any = network.clone(parent=None, name=None)
    num_left = _num_taps(unbound, images.shape, images.dtype)

    def take(stride: int, x: jax.Array) -> None:
        nonlocal num_left
        maps[stride] = x
        num_left -= 1
        if num_left == 0:
            raise _LastMapTaken

    given: dict[str, Any] = {} if gates is None else {"gates": gates}
    if network.aux_heads:
        given["exits"] = False
    before = _taker.set(take)
    try:
        network(images, train=train, **given)
    except _LastMapTaken:
        pass
    finally:
        _taker.reset(before)
    return maps


@lru_cache(maxsize=64)
def _num_taps(network: "Network", shape: tuple[int, ...], dtype: Any) -> int:
    """How many feature maps a network offers; traces it, and computes nothing."""
    strides: list[int] = []
    before = _taker.set(lambda stride, _: strides.append(stride))
    try:
        images = jax.ShapeDtypeStruct(shape, dtype)
        jax.eval_shape(partial(network.init, train=False), jax.random.key(0), images)
    finally:
        _taker.reset(before)
    if not strides:
        raise ValueError(f"{type(network).__name__} has no stages, so no feature pyramid")
    return len(strides)


def check_images(images: jax.Array, min_size: int, network: str) -> None:
    """Raise a sentence unless `images` is a batch (N, H, W, C) that the network can read."""
    if images.ndim != 4:
        raise ValueError(
            f"{network} takes a batch of images (N, H, W, C), not an array of shape {tuple(images.shape)}"
        )
    if any(size < min_size for size in images.shape[1:3]):
        raise ValueError(
            f"{network} needs images of at least {min_size}x{min_size} pixels, "
            f"not {images.shape[1]}x{images.shape[2]} (height x width of an NHWC batch)"
        )
