"""What single equations of a jaxpr do to Lipschitz bounds: see `lipschitz_bounds.py`.

A rule is (equation, values, those of them that vary) -> the bound of all outputs, or None: there is none.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flaxarch.depth.conv_norms import norm_bound


class Lipschitz(NamedTuple):
    """||f(x) - f(y)|| <= constant ||x - y||, whatever the images x and y are."""

    constant: float  # infinite: none is certain
    obstacle: str = ""  # then: the first operation, by JAX's name, that has no bound


class _Conv(NamedTuple):
    """A convolution, or dense layer, whose features may still be scaled."""

    source: "Varying"  # what it reads
    kernel: np.ndarray  # (h, w, C / groups, features)
    scale: np.ndarray  # (features,)
    size: tuple[int, int]  # of what it reads
    groups: int
    dilation: tuple[int, int]
    axis: int  # of the features in what it gives
    pads: Any = None  # where strides and dilations are 1 and there are no groups

    def norm(self) -> float:
        return norm_bound(self.kernel * self.scale, self.size, groups=self.groups, dilation=self.dilation)

    def is_adjoint_of(self, other: "_Conv") -> bool:
        """Whether it is the other one's transpose, by its place in the kernels and in the map."""
        if self.pads is None or other.pads is None or self.size != other.size:
            return False
        turned = other.kernel[::-1, ::-1].swapaxes(2, 3)
        pads = [(k - 1 - a, k - 1 - b) for k, (a, b) in zip(turned.shape[:2], other.pads, strict=True)]
        return np.array_equal(self.kernel, turned) and pads == [tuple(pair) for pair in self.pads]


class Varying(NamedTuple):
    """What depends on the image: `constant` is its bound, or, with `conv`, that of what this reads."""

    constant: float
    obstacle: str = ""
    conv: _Conv | None = None
    activated: _Conv | None = None  # it is s(K x + b) of this K x, where the slope of s is from 0 to 1
    gram: tuple[_Conv, float] | None = None  # it is c K^T s(K x + b), with these K x and c

    def bound(self) -> Lipschitz:
        if self.conv is None or not self.constant or math.isinf(self.constant):
            return Lipschitz(self.constant, self.obstacle)
        return Lipschitz(self.constant * self.conv.norm())

    def times(self, factor: float) -> "Varying":
        constant, obstacle = self.bound()
        return Varying(factor * constant if factor else 0.0, obstacle)

    def scaled(self, scale: np.ndarray, shape: Sequence[int]) -> "Varying":
        """Each entry times a number; one of each feature goes into the kernel before."""
        if self.conv is not None:
            axis = self.conv.axis
            row = np.moveaxis(np.broadcast_to(scale, shape), axis, -1).reshape(-1, shape[axis])
            if (row == row[0]).all():
                return self._replace(conv=self.conv._replace(scale=self.conv.scale * row[0]))
        found = self.times(float(abs(scale).max()))
        if self.gram is not None and (scale == scale.flat[0]).all():
            return found._replace(gram=(self.gram[0], self.gram[1] * float(scale.flat[0])))
        return found


def _root_of_squares(varying: list[Varying]) -> Varying:
    bounds = [x.bound() for x in varying]
    return Varying(math.hypot(*(b.constant for b in bounds)), _first_obstacle(bounds))


def _first_obstacle(bounds: Sequence[Lipschitz]) -> str:
    return next((bound.obstacle for bound in bounds if bound.obstacle), "")


def _same(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying | None:
    return varying[0].times(1.0) if isinstance(values[0], Varying) and len(varying) == 1 else None


def _activated(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying:
    if len(varying) > 1:
        return _root_of_squares(varying)
    return varying[0].times(1.0)._replace(activated=varying[0].conv)


def _negative(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying:
    return varying[0].scaled(np.array(-1.0), eqn.outvars[0].aval.shape)


def _kept(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying | None:
    return varying[0] if jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating) else None


def _quarter(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying:
    return varying[0].times(0.25)  # the logistic function's steepest slope


def _sum(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying:
    if len(varying) == 1:
        return varying[0]  # what is the same for all images moves none of them
    for x, y in (varying, varying[::-1]):
        if y.gram is not None and y.gram[0].source is x:
            return _step(x, *y.gram)
    bounds = [x.bound() for x in varying]
    return Varying(sum(b.constant for b in bounds), _first_obstacle(bounds))


def _difference(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying:
    x, y = values
    y = _negative(eqn, values, [y]) if isinstance(y, Varying) else y
    return _sum(eqn, values, [z for z in (x, y) if isinstance(z, Varying)])


def _step(x: Varying, conv: _Conv, factor: float) -> Varying:
    """x + c K^T s(K x + b): I + c K^T D K is symmetric, with 0 <= D, so that its norm is an eigenvalue.

    Of two images, the slopes of s between them are in D, as they are for any two (Meunier et al. 2022).
    """
    squared = norm_bound(conv.kernel * np.sqrt(conv.scale), conv.size) ** 2
    return x.times(max(1.0, abs(1 + factor * squared)))


def _product(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying | None:
    if len(varying) > 1:
        return None
    scale = next(x for x in values if not isinstance(x, Varying))
    return varying[0].scaled(np.asarray(scale, np.float64), eqn.outvars[0].aval.shape)


def _quotient(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying | None:
    if isinstance(values[1], Varying):
        return None
    return varying[0].scaled(1 / np.asarray(values[1], np.float64), eqn.outvars[0].aval.shape)


def _joined(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying:
    return _root_of_squares(varying)


def _select(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying | None:
    return None if isinstance(values[0], Varying) else _root_of_squares(varying)


def _clamp(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying | None:
    return varying[0].times(1.0) if isinstance(values[1], Varying) and len(varying) == 1 else None


def _repeated(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying:
    sizes = [math.prod(x.aval.shape) for x in (eqn.outvars[0], eqn.invars[0])]
    return varying[0].times(math.sqrt(sizes[0] / sizes[1]))


def _summed(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying:
    return varying[0].times(math.sqrt(math.prod(eqn.invars[0].aval.shape[i] for i in eqn.params["axes"])))


def _overlap(eqn: Any) -> int:
    """In how many windows an entry is, at most."""
    p = eqn.params
    if {*p["window_dilation"], *p["base_dilation"]} != {1}:
        return math.prod(p["window_dimensions"])
    return math.prod(-(-k // s) for k, s in zip(p["window_dimensions"], p["window_strides"], strict=True))


def _window_max(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying:
    return varying[0].times(math.sqrt(_overlap(eqn)))


def _window_sum(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying:
    return varying[0].times(math.sqrt(_overlap(eqn) * math.prod(eqn.params["window_dimensions"])))


def _conv(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying | None:
    x, kernel = values
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    if isinstance(kernel, Varying) or p["batch_group_count"] > 1 or len(numbers.rhs_spec) != 4:
        return None
    features, channels, *space = numbers.rhs_spec
    size = [eqn.invars[0].aval.shape[i] for i in numbers.lhs_spec[2:]]
    height, width = ((n - 1) * d + 1 for n, d in zip(size, p["lhs_dilation"], strict=True))
    weights = np.asarray(kernel, np.float64).transpose(*space, channels, features)
    steps = (*p["window_strides"], *p["lhs_dilation"], *p["rhs_dilation"], p["feature_group_count"])
    conv = _Conv(
        x,
        weights,
        np.ones(weights.shape[3]),
        (height, width),
        p["feature_group_count"],
        p["rhs_dilation"],
        numbers.out_spec[1],
        p["padding"] if set(steps) == {1} else None,
    )
    before = x.activated
    if before is not None and conv.is_adjoint_of(before) and (before.scale >= 0).all():
        return x.times(conv.norm())._replace(gram=(before, 1.0))
    return x.times(1.0)._replace(conv=conv)


def _dot(eqn: Any, values: list[Any], varying: list[Varying]) -> Varying | None:
    axes, batched = eqn.params["dimension_numbers"]
    if len(varying) > 1 or any(batched):
        return None
    place = 0 if isinstance(values[1], Varying) else 1  # of the matrix
    tensor, num = np.asarray(values[place], np.float64), len(axes[place])
    matrix = np.moveaxis(tensor, axes[place], range(num))
    matrix = matrix.reshape(math.prod(matrix.shape[:num]), -1)
    if place == 0 or tensor.ndim - num != 1:
        return varying[0].times(float(np.linalg.norm(matrix, 2)))
    axis, scale = len(eqn.outvars[0].aval.shape) - 1, np.ones(matrix.shape[1])
    conv = _Conv(varying[0], matrix[None, None], scale, (1, 1), 1, (1, 1), axis)
    return varying[0].times(1.0)._replace(conv=conv)


_Rule = Callable[[Any, list[Any], list[Varying]], Varying | None]
RULES: dict[str, _Rule] = {
    **dict.fromkeys(("convert_element_type", "name", "copy", "reduce_precision"), _kept),
    **dict.fromkeys(("reshape", "transpose", "squeeze", "expand_dims", "rev", "slice", "split"), _same),
    **dict.fromkeys(("pad", "dynamic_slice", "reduce_max", "abs", "sin", "cos"), _same),
    **dict.fromkeys(("max", "min", "tanh"), _activated),
    **dict.fromkeys(("add", "add_any"), _sum),
    "sub": _difference,
    "logistic": _quarter,
    "neg": _negative,
    "mul": _product,
    "div": _quotient,
    "clamp": _clamp,
    "select_n": _select,
    "concatenate": _joined,
    "broadcast_in_dim": _repeated,
    "reduce_sum": _summed,
    "reduce_window_max": _window_max,
    "reduce_window_sum": _window_sum,
    "conv_general_dilated": _conv,
    "dot_general": _dot,
}
