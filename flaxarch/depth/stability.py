"""When a network is stable as a differential equation: eigenvalues, norms and growth along its depth.

Haber & Ruthotto 2017, https://arxiv.org/abs/1705.03341, ask that the Jacobian J of the field has no
eigenvalue to the right of the imaginary axis, and that h times each lies in the region of the method that
takes the steps. Where J changes along the way, or is not normal, eigenvalues decide nothing by themselves: a
small perturbation grows no faster than by exp of the integral of the logarithmic norm mu(J), the largest
eigenvalue of (J + J^T) / 2 (Dahlquist 1958; Soederlind 2006, https://doi.org/10.1007/s10543-006-0069-9), and
a step makes it grow by ||I + h J|| at most. What it really grows by, to first order, are the singular values
of the product of all steps: exp of the finite-time Lyapunov exponents times the depth.

All is found without a matrix, by products with J and its transpose, around given images.
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from flaxarch.depth.flow import Flow, apply_flows, flows
from flaxarch.depth.jacobians import Spectra, spectra, step_of
from flaxarch.depth.lipschitz_bounds import lipschitz, lipschitz_each
from flaxarch.depth.regions import METHODS, amplification
from flaxarch.depth.trunk import model_call, unrolled

Verdict = Literal["contractive", "stable", "undecided", "unstable"]

# A perturbation that grows tenfold has gone from what no one sees in an image to what anyone does.
MAX_GROWTH = 10.0
_ROUNDING = 1e-3


class Certificate(NamedTuple):
    """What `certify` finds out about a network's rows of alike blocks, at given images.

    >>> found = certify(model, variables, images)
    >>> found.verdict, found.amplification("RK4").max()
    >>> print(found)                                         # the verdict in a sentence, with its numbers
    """

    names: tuple[tuple[str, ...], ...]  # of the blocks of each row
    rows: tuple[Spectra, ...]  # theirs
    lipschitz: tuple[np.ndarray, ...]  # (n,) of each row: certified bounds of its blocks; infinite: none
    network_lipschitz: float  # the same from images to logits
    obstacle: str  # the operation that leaves the network without a bound, if any

    @property
    def growth(self) -> float:
        """The most that a small perturbation grows by in all rows, one after the other.

        The product of the rows' largest singular values, of the worst image: what is between rows left out.
        """
        return _worst(row.log_growth[..., 0] for row in self.rows)

    @property
    def growth_bound(self) -> float:
        """The same by each step's norm: as if each block got what the one before makes grow most."""
        return _worst(np.log(row.step_norm) for row in self.rows)

    @property
    def flow_bound(self) -> float:
        """exp of the sum of h mu(J): the bound of the differential equation, which smaller steps tend to."""
        return _worst(row.log_norm for row in self.rows)

    @property
    def verdict(self) -> Verdict:
        """One word, by the first of these rules that fits.

        "contractive": growth_bound <= 1, as no block makes any small perturbation of the images grow.
        "stable": growth_bound <= 10, as all blocks together do not make one grow tenfold, in any order.
        "unstable": growth > 10, as there is a perturbation that grows more than tenfold.
        "undecided": none does, but the norms of the steps do not rule it out near by.

        It is about the network as it is, whose blocks are its steps, and to first order in the perturbation.
        """
        if self.growth_bound <= 1 + _ROUNDING:
            return "contractive"
        if self.growth_bound <= MAX_GROWTH:
            return "stable"
        return "unstable" if self.growth > MAX_GROWTH else "undecided"

    def amplification(self, method: str = "Euler", h: float = 1.0) -> np.ndarray:
        """(num_blocks, N): the largest |R(h lambda)| of each block by a solver of `METHODS` with steps `h`.

        `h` is in blocks. At most 1: the solver is stable at the block, if it stayed as it is here.
        """
        factors = [amplification(h * row.eigenvalues, METHODS[method]) for row in self.rows]
        return np.concatenate([np.nanmax(factor, axis=-1) for factor in factors])

    def __str__(self) -> str:
        sure = f"at most {self.growth_bound:.3g}-fold by the norms of all steps"
        words = {
            "contractive": f"no small perturbation of these images grows in any block; {sure}",
            "stable": f"small perturbations of these images grow {self.growth:.3g}-fold, {sure}",
            "undecided": f"small perturbations grow {self.growth:.3g}-fold here, and {sure}",
            "unstable": f"there are small perturbations that grow {self.growth:.3g}-fold",
        }[self.verdict]
        outside = [name for name in METHODS if self.amplification(name).max() > 1 + _ROUNDING]
        modes = f"eigenvalues leave the region of {', '.join(outside)}" if outside else "all regions fit"
        bound = self.network_lipschitz
        sure = f"no bound, for `{self.obstacle}`" if math.isinf(bound) else f"at most {bound:.3g}"
        return f"{self.verdict}: {words}; {modes}; Lipschitz constant of the network: {sure}"


def certify(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    *,
    seed: int = 0,
    num_krylov: int = 24,
    num_exponents: int = 2,
    num_sweeps: int = 8,
) -> Certificate:
    """How stable a residual network is along its depth, at these images, with its blocks as Euler's steps.

    Args:
      model: a residual network; its blocks that keep their shape count, as `flows` finds them.
      variables: its `{"params": ..., "batch_stats": ...}`.
      images: (N, H, W, C), as the network expects them: a few are enough.
      seed: of the vectors that the methods begin with.
      num_krylov: as `spectra`'s, and all below.

    Each row of blocks is compiled once, and rows of the same block and shape together. Raises ValueError
    where no block is residual, or none keeps its shape, and where a state is not finite.
    """
    if not len(images):
        raise ValueError("a certificate needs an image at least")
    found = flow_starts(model, variables, images)
    if not found:
        raise ValueError(f"no block of this {type(model).__name__} keeps its shape, as steps of a flow do")
    rows, bounds = [], []
    for number, (flow, x, theta) in enumerate(found):
        key = jax.random.fold_in(jax.random.key(seed), number)
        settings = {"num_krylov": num_krylov, "num_exponents": num_exponents, "num_sweeps": num_sweeps}
        rows.append(spectra(step_of(flow), x, theta, key, **settings)[0])
        block: Any = flow.block
        each = lipschitz_each(block.apply, theta, x.shape[1:], flow.num_blocks)
        bounds.append(np.array([bound.constant for bound in each]))
    apply = model_call(unrolled(model), train=False)
    whole = lipschitz(lambda images: apply(variables, images), images.shape[1:])
    return Certificate(tuple(flow.paths for flow, *_ in found), tuple(rows), tuple(bounds), *whole)


def flow_starts(model: nn.Module, variables: Any, images: jax.Array) -> list[tuple[Flow, jax.Array, Any]]:
    """Each row of alike blocks, x(0) that it reads, and its theta: its variables, stacked."""
    found = flows(model, images.shape[1:])
    return [(flow, *start) for flow, start in zip(found, _starts(model, variables, images), strict=True)]


@partial(jax.jit, static_argnames="model")
def _starts(model: nn.Module, variables: Any, images: jax.Array) -> list[tuple[jax.Array, Any]]:
    found = []

    def end(flow: Flow, x: jax.Array, theta: Any) -> jax.Array:
        found.append((x, theta))
        return flow.euler(theta, x)[0]

    apply_flows(model, variables, images, end)
    return found


def _worst(logs: Iterable[np.ndarray]) -> float:
    """exp of the sum over all blocks, of rows (n, N), of the worst image."""
    largest = float(np.concatenate([*logs]).sum(axis=0).max())
    return math.exp(largest) if largest < 700 else math.inf
