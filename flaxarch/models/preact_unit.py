"""The residual unit of He et al. 2016b, https://arxiv.org/abs/1603.05027, in all the forms that it compares.

Where batch norms and ReLUs stand (Fig. 4), and what the shortcut is (Fig. 2, Table 1), are values of `Unit`'s
fields `activation` and `shortcut`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
from flax import linen as nn

from flaxarch.layers import ModuleDef
from flaxarch.models.cifar_resnet import zero_pad
from flaxarch.ops import subsample
from flaxarch.residual import residual

# Where batch norms and ReLUs stand: layers are (x, norm, name of the norm) -> x


def batch_norm(x: jax.Array, norm: ModuleDef, name: str) -> jax.Array:
    """BN."""
    return norm(name=name)(x)


def relu(x: jax.Array, norm: ModuleDef, name: str) -> jax.Array:
    """ReLU, which needs no norm."""
    del norm, name
    return nn.relu(x)


Layers = tuple[Callable[[jax.Array, ModuleDef, str], jax.Array], ...]


def run_layers(layers: Layers, x: jax.Array, norm: ModuleDef, name: str) -> jax.Array:
    """Apply one layer after the other."""
    for layer in layers:
        x = layer(x, norm, name)
    return x


@dataclass(frozen=True)
class Activation:
    """A row of Fig. 4: what stands where around a unit's convolutions and its sum.

    What is `before` convolutions stands once behind the network's first convolution too, and once ahead of
    its head; what is `after` them, behind the first.
    """

    before: Layers = ()  # each convolution of the branch
    after: Layers = ()  # each convolution of the branch but the last
    last: Layers = ()  # after the last one, ahead of the sum
    outer: Layers = ()  # after the sum: f of equation 2


ORIGINAL = Activation(after=(batch_norm, relu), last=(batch_norm,), outer=(relu,))  # (a)
BN_AFTER_ADDITION = Activation(after=(batch_norm, relu), outer=(batch_norm, relu))  # (b)
RELU_BEFORE_ADDITION = Activation(after=(batch_norm, relu), last=(batch_norm, relu))  # (c)
RELU_ONLY_PREACT = Activation(before=(relu,), after=(batch_norm,), last=(batch_norm,))  # (d)
FULL_PREACT = Activation(before=(batch_norm, relu))  # (e)

# The convolutions of a branch: (conv, features of the unit, strides) -> modules that lack a name only
Branch = Callable[[ModuleDef, int, int], tuple[ModuleDef, ...]]


def basic(conv: ModuleDef, features: int, strides: int) -> tuple[ModuleDef, ...]:
    """Two 3x3 convolutions."""
    conv3x3 = partial(conv, features, (3, 3), padding=1)
    return partial(conv3x3, strides=(strides, strides)), conv3x3


def bottleneck(
    conv: ModuleDef, features: int, strides: int, *, stride_first: bool = False, last_bias: bool = False
) -> tuple[ModuleDef, ...]:
    """1x1 and 3x3 of a quarter of the features, and 1x1; the stride is on the 3x3, or on the first 1x1."""
    inner = features // 4
    first, second = (strides, 1) if stride_first else (1, strides)
    return (
        partial(conv, inner, (1, 1), (first, first)),
        partial(conv, inner, (3, 3), (second, second), padding=1),
        partial(conv, features, (1, 1), use_bias=last_bias),
    )


# (unit, x, activated x, F(x)) -> the summands of equation 1, h(x) and F(x)
Shortcut = Callable[["Unit", jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def identity(unit: "Unit", x: jax.Array, activated: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """h(x) = x, and where the shape changes, option A: every second pixel, and zeros for new features."""
    del activated
    return zero_pad(x, unit.features, unit.strides, unit.conv, unit.norm), y


def projection(unit: "Unit", x: jax.Array, activated: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """h(x) = x, and where the shape changes, a 1x1 convolution of the activated x."""
    if unit.strides == 1 and x.shape[-1] == unit.features:
        return x, y
    return convolution(unit, x, activated, y)


def strided_identity(
    unit: "Unit", x: jax.Array, activated: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Keras's: a 1x1 convolution with a bias for new features, and every second pixel for a stride alone."""
    if x.shape[-1] != unit.features:
        return convolution(unit, x, activated, y, use_bias=True)
    return subsample(x, (unit.strides, unit.strides)), y


def convolution(
    unit: "Unit", x: jax.Array, activated: jax.Array, y: jax.Array, *, use_bias: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Fig. 2e, in every unit: h(x) is a 1x1 convolution."""
    del x
    strides = (unit.strides, unit.strides)
    return unit.conv(unit.features, (1, 1), strides, use_bias=use_bias, name="shortcut")(activated), y


def constant_scaling(
    unit: "Unit",
    x: jax.Array,
    activated: jax.Array,
    y: jax.Array,
    *,
    shortcut: float = 0.5,
    branch: float = 0.5,
) -> tuple[jax.Array, jax.Array]:
    """Fig. 2b: h(x) = lambda x, with the branch as it is (`branch=1`) or scaled too; option A first."""
    x, y = identity(unit, x, activated, y)
    return shortcut * x, branch * y


def exclusive_gating(
    unit: "Unit", x: jax.Array, activated: jax.Array, y: jax.Array, *, bias: float = -6.0
) -> tuple[jax.Array, jax.Array]:
    """Fig. 2c, as in Highway Networks: (1 - g(x)) x and g(x) F(x), where g = sigmoid of a 1x1 convolution.

    `bias` is that of g at the start: the paper's best of 0 to -10. Option A comes first.
    """
    x, y = identity(unit, x, activated, y)
    gate = _gate(unit, x, bias)
    return (1 - gate) * x, gate * y


def shortcut_only_gating(
    unit: "Unit", x: jax.Array, activated: jax.Array, y: jax.Array, *, bias: float = -6.0
) -> tuple[jax.Array, jax.Array]:
    """Fig. 2d: (1 - g(x)) x, and F(x) as it is."""
    x, y = identity(unit, x, activated, y)
    return (1 - _gate(unit, x, bias)) * x, y


def _gate(unit: "Unit", x: jax.Array, bias: float) -> jax.Array:
    start = nn.initializers.constant(bias)
    return nn.sigmoid(unit.conv(unit.features, (1, 1), use_bias=True, bias_init=start, name="gate")(x))


def dropout_shortcut(
    unit: "Unit", x: jax.Array, activated: jax.Array, y: jax.Array, *, dropout_rate: float = 0.5
) -> tuple[jax.Array, jax.Array]:
    """Fig. 2f: dropout on h(x) = x; option A first."""
    x, y = identity(unit, x, activated, y)
    return unit.dropout(dropout_rate)(x), y


class Unit(nn.Module):
    """h(x) + F(x) (equation 1): (N, H, W, C) -> (N, H / strides, W / strides, features)."""

    features: int
    branch: Branch
    activation: Activation
    shortcut: Shortcut
    conv: ModuleDef
    norm: ModuleDef
    dropout: ModuleDef
    strides: int = 1
    is_activated: bool = False  # the input, by the stem

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        act, convs = self.activation, self.branch(self.conv, self.features, self.strides)
        activated = y = x if self.is_activated else run_layers(act.before, x, self.norm, "norm1")
        for i, conv in enumerate(convs, start=1):
            if i > 1:
                y = run_layers(act.before, y, self.norm, f"norm{i}")
            y = conv(name=f"conv{i}")(y)
            y = run_layers(act.after if i < len(convs) else act.last, y, self.norm, f"norm{i}")
        x, y = self.shortcut(self, x, activated, y)
        return run_layers(act.outer, residual(x, y, gate), self.norm, f"norm{len(convs)}")
