"""Methods that see f once a step and keep something beside x: residual networks of other shapes.

Lu et al. 2018, https://arxiv.org/abs/1710.10121, read networks as such methods. Steps are of one length h,
but that the first, which has no past, is told another; a method says how a step is undone, where it can be.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

State = tuple[jax.Array, jax.Array]  # x and the memory, of x's shape


class Multistep(ABC):
    """A method; the field is f(x), at the time and with the parameters where the step begins."""

    first: ClassVar[float] = 1.0  # h of the first step, as a share of the others'

    @property
    def is_reversible(self) -> bool:
        """Whether a step can be undone."""
        return True

    @abstractmethod
    def start(self, x: jax.Array) -> jax.Array:
        """The memory at the first step."""

    @abstractmethod
    def step(self, state: State, slope: jax.Array, h: Any) -> State:
        """The state after a step; `slope` is f(x)."""

    @abstractmethod
    def undo(self, state: State, field: Callable[[jax.Array], jax.Array], h: Any) -> State:
        """The state before the step that has given this one, and at whose beginning f was `field`."""


@dataclass(frozen=True)
class TwoStepMidpoint(Multistep):
    """x_{n+1} = x_{n-1} + 2 h f(x_n): order 2. The memory is x_{n-1}.

    MidPoint of Chang et al. 2018, https://arxiv.org/abs/1709.03698.
    """

    first: ClassVar[float] = 0.5  # with x_{-1} = x_0, Euler's step

    def start(self, x: jax.Array) -> jax.Array:
        return x

    def step(self, state: State, slope: jax.Array, h: Any) -> State:
        x, previous = state
        return previous + 2 * h * slope, x

    def undo(self, state: State, field: Callable[[jax.Array], jax.Array], h: Any) -> State:
        following, x = state
        return x, following - 2 * h * field(x)


@dataclass(frozen=True)
class Leapfrog(Multistep):
    """x'' = f by Verlet's method from rest, x_{n+1} = 2 x_n - x_{n-1} + h^2 f(x_n): order 2.

    Leapfrog of Chang et al. 2018; hyperbolic networks of Ruthotto & Haber 2020,
    https://arxiv.org/abs/1804.04272. The memory is x_n - x_{n-1}.
    """

    first: ClassVar[float] = 0.5**0.5  # Taylor's series from rest: x + h^2 f / 2

    def start(self, x: jax.Array) -> jax.Array:
        return jnp.zeros_like(x)

    def step(self, state: State, slope: jax.Array, h: Any) -> State:
        x, difference = state
        difference = difference + h**2 * slope
        return x + difference, difference

    def undo(self, state: State, field: Callable[[jax.Array], jax.Array], h: Any) -> State:
        following, difference = state
        x = following - difference
        return x, difference - h**2 * field(x)


@dataclass(frozen=True)
class Momentum(Multistep):
    """v_{n+1} = g v_n + (1 - g) f(x_n), x_{n+1} = x_n + h v_{n+1}, from v = 0: order 1.

    Sander et al. 2021, https://arxiv.org/abs/2102.07870: Euler's method for e x'' + x' = f(x),
    with e = h g / (1 - g), and for g = 0 for x' = f(x). Undone, rounding errors grow by 1 / g a step: with
    g = 0.9 a thousandfold in 66 steps. The paper's code keeps the bits that are lost; this does not.
    """

    momentum: float = 0.9  # g, of [0, 1)

    @property
    def is_reversible(self) -> bool:
        """With g > 0."""
        return self.momentum > 0

    def start(self, x: jax.Array) -> jax.Array:
        return jnp.zeros_like(x)

    def step(self, state: State, slope: jax.Array, h: Any) -> State:
        x, velocity = state
        velocity = self.momentum * velocity + (1 - self.momentum) * slope
        return x + h * velocity, velocity

    def undo(self, state: State, field: Callable[[jax.Array], jax.Array], h: Any) -> State:
        following, velocity = state
        x = following - h * velocity
        return x, (velocity - (1 - self.momentum) * field(x)) / self.momentum


@dataclass(frozen=True)
class LinearMultistep(Multistep):
    """x_{n+1} = (1 - k) x_n + k x_{n-1} + h f(x_n): order 1, for (1 + k) x' = f. The memory is x_{n-1}.

    LM-ResNet, Lu et al. 2018, where each block learns its k, which may be 0.
    """

    k: Any = 0.0

    @property
    def is_reversible(self) -> bool:
        """No: x_{n-1} is not in what a step with k = 0 gives."""
        return False

    def start(self, x: jax.Array) -> jax.Array:
        return x

    def step(self, state: State, slope: jax.Array, h: Any) -> State:
        x, previous = state
        return x + self.k * (previous - x) + h * slope, x

    def undo(self, state: State, field: Callable[[jax.Array], jax.Array], h: Any) -> State:
        raise ValueError("a step of LinearMultistep cannot be undone: with k = 0 it forgets x_{n-1}")
