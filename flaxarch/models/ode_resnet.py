"""Networks that solve differential equations: x' = F(x, theta(t)) in stages, t from 0 to T.

A stage takes N steps of h = T / N. F is a kind of `Field` (`ode_fields.py`), theta(t) is in a basis
(`flaxarch.ode.bases`), with as many coefficients as steps, fewer, or one, by which the weights are tied; the
method may be Euler's, Runge-Kutta's, or one that keeps a memory. Method and number of steps may change after
training, the equation staying as it is:

>>> model = flaxarch.create("ode_resnet_spline")                              # Euler, N = 6 steps, T = 3
>>> model.clone(stage_sizes=(12, 12, 12), method=RK4).apply(variables, images, train=False)

The frame is Ruthotto & Haber 2020's, https://arxiv.org/abs/1804.04272: a 3x3 convolution opens, a
1x1 convolution and pooling connect two stages, so that all blocks of a stage are alike. Its networks for
CIFAR-10 are the first three rows. The others have it around what other papers propose, with widths of our
own: `_lm` learns the numbers k of Lu et al. 2018, `_momentum` has the velocity of Sander et al. 2021,
`_midpoint` the antisymmetric layers of Chang et al. 2018, `_tied` one F for all times (Chen et al. 2018,
https://arxiv.org/abs/1806.07366), `_augmented` features of zeros beside it (Dupont et al. 2019,
https://arxiv.org/abs/1904.01681), `_revnet` the pairs of Gomez et al. 2017. In `_lipschitz`, made of Meunier
et al. 2022's layers, no logit moves further than the normalised image.

A stage has the variables `layer1_0`, `layer1_1`, ...: parameters, one for each coefficient, and batch
statistics, one for each step. Where theta(t) is piecewise constant, with a coefficient for each step, these
are the blocks of an ordinary residual network.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from flaxarch.layers import Conventions, ModuleDef, Network, check_images, tap, uniform_dense
from flaxarch.models.ode_fields import (
    Antisymmetric,
    Bias,
    ConvexPotential,
    Free,
    Hamiltonian,
    Pair,
    Parabolic,
    TvNorm,
)
from flaxarch.models.ode_frames import CONVOLUTIONS, PADDING, Frame, pad_features
from flaxarch.ode.bases import Basis, b_spline, before, piecewise_constant, piecewise_linear
from flaxarch.ode.multistep import Leapfrog, LinearMultistep, Momentum, Multistep, TwoStepMidpoint
from flaxarch.ode.reversible import reversible_scan
from flaxarch.ode.solvers import EULER, Solver, combined
from flaxarch.residual import block_gates, replace_residual
from flaxarch.variant import CIFAR10_MEAN, CIFAR10_STD, Variant

# `LinearMultistep` itself: with a learned k for each step
Method = Solver | Multistep | type[LinearMultistep]


class OdeResNet(Network):
    """Images (N, H, W, C) -> logits (N, num_classes), float32; H and W at least 2^(stages - 1).

    `gates` (num_steps,) or (num_steps, N) multiply F, over all stages. Raises ValueError for what does not
    fit together.
    """

    stage_sizes: tuple[int, ...]  # N of each stage
    widths: tuple[int, ...]  # features of each stage, and of the last connector
    field: ModuleDef  # F, a `Field`; or a `Pair`, which is Verlet's step itself
    method: Method = EULER
    times: tuple[float, ...] | None = None  # T of each stage; None: N, so that h = 1
    basis: Basis = piecewise_constant  # of theta(t); batch statistics are piecewise constant or linear
    num_coefficients: int | None = None  # of theta(t) in each stage; None: N. With 1 the weights are tied
    block_norm: ModuleDef | None = None  # in F; None: batch norm of the conventions
    reversible: bool = False  # gradients keep no state within a stage: the steps are undone
    scan: bool = False  # a stage's steps in a loop, which compiles as soon as one of them
    augmented: int = 0  # of the first stage's features, how many begin as zeros
    frame: Frame = CONVOLUTIONS
    conventions: Conventions = Conventions(dense=uniform_dense)
    survival_prob: float = 1.0  # stochastic depth: chance that the last step is kept

    head: ClassVar[str] = "fc"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, gates: jax.Array | None = None) -> jax.Array:
        self._check()
        check_images(images, 2 ** (len(self.stage_sizes) - 1), "this ODE network")
        conv = self.conventions.conv(self.dtype)
        norm = self.conventions.norm(train, self.dtype, self.axis_name)
        inner = norm if self.block_norm is None else partial(self.block_norm, dtype=self.dtype)
        field = partial(self.field, conv=conv, norm=inner)
        gate = iter(block_gates(self, gates, num_blocks=sum(self.stage_sizes), train=train))

        frame, first = self.frame, self.widths[0] - self.augmented
        x = pad_features(frame.opening(self, images.astype(self.dtype), first, conv, norm), self.widths[0])
        for i, num_steps in enumerate(self.stage_sizes, start=1):
            x = self._stage(i, partial(field, x.shape[-1]), x, [next(gate) for _ in range(num_steps)])
            x = tap(self, 2 ** (i - 1), x)
            x = frame.connector(x, self.widths[i], conv, norm, f"connector{i}")
            x = frame.pool(x) if i < len(self.stage_sizes) else x
        return frame.head(self, x)  # float32 logits at any dtype

    def _check(self) -> None:
        num_stages, is_pair = len(self.stage_sizes), not _is_field(self.field)
        if len(self.widths) != num_stages + 1 or len(self.times or self.stage_sizes) != num_stages:
            raise ValueError(
                f"{num_stages} stages have {num_stages + 1} widths, the last connector's too, and as many "
                f"times as stages, not {len(self.widths)} and {len(self.times or ())}"
            )
        if is_pair and self.method != EULER:
            raise ValueError("a pair of states is a method of its own: leave `method` as it is")
        is_undone = isinstance(self.method, Multistep) and self.method.is_reversible
        if self.reversible and not (is_pair or is_undone):
            raise ValueError(
                "steps of this method cannot be undone: reversible networks have a `Pair` for a field, or "
                "TwoStepMidpoint, Leapfrog or Momentum for a method"
            )

    def _stage(self, i: int, field: ModuleDef, x: jax.Array, gates: list[jax.Array | None]) -> jax.Array:
        """x(T) of stage i, from x(0)."""
        num_steps = len(gates)
        h = (self.times[i - 1] if self.times else num_steps) / num_steps
        num = self.num_coefficients if self.is_initializing() else self._number("params", i)
        is_looped = self.scan or self.reversible
        is_plain = self.method == EULER and self.basis is piecewise_constant and not is_looped
        if is_plain and num in (None, num_steps):
            for j, gate in enumerate(gates):
                x = field(step=h, name=f"layer{i}_{j}")(x, gate)
            return x
        block = field(step=h if not _is_field(self.field) else 1.0, parent=None)
        if self.is_initializing():
            self._draw(i, block, x, num_steps if num is None else num, num_steps)
        inputs = {"theta": self._theta(i, num_steps)}
        if gates[0] is not None:
            inputs["gate"] = jnp.stack([gate for gate in gates if gate is not None])
        if self.method is LinearMultistep:
            inputs["k"] = self._learned(i, num_steps)
        x, moved = _integrate(block, self.method, x, inputs, h, num_steps, reversible=self.reversible)
        if moved and self.is_mutable_collection("batch_stats") and not self.is_initializing():
            if (num := self._number("batch_stats", i)) != num_steps:
                raise ValueError(
                    f"stage {i} has the batch statistics of {num} steps, and trains with {num_steps}: "
                    "`resampled` makes a network of other steps"
                )
            for j in range(num_steps):
                tree = jax.tree.map(lambda x, j=j: x[j], moved)
                self.put_variable("batch_stats", f"layer{i}_{j}", tree)
        return x

    def _draw(self, i: int, block: nn.Module, x: jax.Array, num: int, num_steps: int) -> None:
        """Makes a stage's variables, as those of so many blocks.

        Kernels are drawn for each coefficient, and scaled so that those of theta(t) have on average over the
        steps the variance of a block's. Scales and biases are constant in time.
        """
        if not 1 <= num <= num_steps:
            raise ValueError(f"{num_steps} steps have 1 to {num_steps} coefficients, not {num}")
        matrix = self.basis(np.arange(num_steps) / num_steps, num)
        scale = float(np.sqrt(num_steps / (matrix**2).sum()))
        ones = np.linalg.lstsq(matrix, np.ones(num_steps), rcond=None)[0]
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)

        def params(key: jax.Array, one: float) -> Any:
            drawn = block.lazy_init(key, shape)["params"]
            factors = jax.tree.map_with_path(lambda path, _: scale if _is_kernel(path) else one, drawn)
            return jax.tree.map(lambda x, factor: x * factor if factor != 1 else x, drawn, factors)

        for k in range(num):
            self.param(f"layer{i}_{k}", partial(params, one=round(float(ones[k]), 12)))
        stats = block.lazy_init(jax.random.key(0), shape).get("batch_stats", {})
        for j in range(num_steps if stats else 0):
            self.variable("batch_stats", f"layer{i}_{j}", lambda: stats)

    def _learned(self, i: int, num_steps: int) -> jax.Array:
        """The k of each step, which start within [-0.1, 0]."""
        if self.is_initializing():
            return self.param(
                f"k{i}", lambda key: jax.random.uniform(key, (num_steps,), minval=-0.1, maxval=0)
            )
        return at_places(self.get_variable("params", f"k{i}"), places_of(num_steps), piecewise_constant)[:, 0]

    def _theta(self, i: int, num_steps: int) -> Any:
        """A block's variables at each stage of each step: leaves (num_steps, num_stages, ...)."""
        places = places_of(num_steps, self.method.c if isinstance(self.method, Solver) else (0,))
        return {
            name: jax.tree.map(partial(at_places, places=places, basis=basis), stacked)
            for name, basis in (("params", self.basis), ("batch_stats", stats_basis(self.basis)))
            if (stacked := self._stacked(name, i))
        }

    def _stacked(self, collection: str, i: int) -> Any:
        trees = [self.get_variable(collection, f"layer{i}_{k}") for k in range(self._number(collection, i))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) if trees else {}

    def _number(self, collection: str, i: int) -> int:
        """How many blocks' variables stage i has."""
        return sum(name.startswith(f"layer{i}_") for name in self.variables.get(collection, {}))


def _is_field(field: ModuleDef) -> bool:
    """Whether it is F, and no step of its own."""
    return hasattr(getattr(field, "func", field), "slope")


def _is_kernel(path: Any) -> bool:
    return path[-1].key == "kernel"


def places_of(num_steps: int, nodes: tuple[float, ...] = (0,)) -> np.ndarray:
    """Where in [0, 1] each stage of each step is, (num_steps, num_nodes); the end of a step from its left."""
    places = (np.arange(num_steps)[:, None] + np.asarray(nodes, float)) / num_steps
    return np.where(np.asarray(nodes) == 1, before(places), places)


def at_places(leaf: jax.Array, places: np.ndarray, basis: Basis) -> jax.Array:
    """sum_k phi_k(places) leaf_k; without products where each place is on one coefficient."""
    matrix = basis(places, len(leaf))
    if ((matrix == 0) | (matrix == 1)).all() and (matrix.sum(axis=-1) == 1).all():
        return leaf[matrix.argmax(axis=-1)]
    ones, before = (1,) * (leaf.ndim - 1), (None,) * places.ndim
    found = jnp.zeros((), leaf.dtype)
    for column, x in zip(np.moveaxis(matrix, -1, 0), leaf, strict=True):
        found = found + jnp.asarray(column, leaf.dtype).reshape(*places.shape, *ones) * x[before]
    return found


def _integrate(
    block: Any, method: Method, x: jax.Array, inputs: Any, h: float, num_steps: int, *, reversible: bool
) -> tuple[jax.Array, Any]:
    """x after all steps, and the blocks' new batch statistics, stacked.

    `inputs` are those of each step, stacked: "theta" for each of its stages, and there may be a "gate", and
    a number "k" for `LinearMultistep`.
    """

    def run(x: jax.Array, inputs: Any, j: int = 0, **options: Any) -> tuple[jax.Array, Any]:
        """The block by the variables of a step's stage j, and its new batch statistics."""
        variables = jax.tree.map(lambda leaf: leaf[j], inputs["theta"])
        y, updated = block.apply(variables, x, inputs.get("gate"), mutable=["batch_stats"], **options)
        return y, updated.get("batch_stats", {})

    def slope(x: jax.Array, inputs: Any, j: int = 0) -> tuple[jax.Array, Any]:
        """g F."""
        with replace_residual(lambda x, y, gate: y if gate is None else gate * y):
            return run(x, inputs, j)

    if not hasattr(block, "slope"):
        if not reversible:
            return lax.scan(run, x, inputs)
        return reversible_scan(run, lambda x, inputs: run(x, inputs, undo=True)[0], x, inputs)

    if isinstance(method, Solver):

        def step(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
            found: list[tuple[jax.Array, Any]] = []
            for j, row in enumerate(method.a):
                found.append(slope(combined(x, h, row, [y for y, _ in found]), inputs, j))
            return combined(x, h, method.b, [y for y, _ in found]), found[0][1]

        return lax.scan(step, x, inputs)

    def of_step(inputs: Any) -> Multistep:
        return method if isinstance(method, Multistep) else LinearMultistep(inputs["k"].astype(x.dtype))

    def multistep(state: Any, inputs: Any) -> tuple[Any, Any]:
        y, moved = slope(state[0], inputs)
        return of_step(inputs).step(state, y, inputs["h"]), moved

    def undo(state: Any, inputs: Any) -> Any:
        return of_step(inputs).undo(state, lambda x: slope(x, inputs)[0], inputs["h"])

    state = x, of_step(inputs).start(x)
    inputs = {**inputs, "h": jnp.full(num_steps, h, x.dtype).at[0].multiply(of_step(inputs).first)}
    scan = partial(reversible_scan, multistep, undo) if reversible else partial(lax.scan, multistep)
    (x, _), moved = scan(state, inputs)
    return x, moved


def stats_basis(basis: Basis) -> Basis:
    """That of the batch statistics."""
    return piecewise_constant if basis is piecewise_constant else piecewise_linear


_row = partial(
    Variant, input_shape=(32, 32, 3), num_classes=10, mean=CIFAR10_MEAN, std=CIFAR10_STD, resize=32
)
_RH = "Ruthotto & Haber 2020, Table 1, CIFAR-10"
_PDE: dict[str, Any] = {"widths": (32, 64, 112, 112), "block_norm": TvNorm}
_pde = partial(OdeResNet, (3, 3, 3), **_PDE, num_classes=10)
_ode = partial(OdeResNet, (6, 6, 6), (16, 32, 64, 64), field=Free, times=(3.0, 3.0, 3.0), num_classes=10)
_antisymmetric = partial(_ode, field=partial(Antisymmetric, damping=0.1), block_norm=Bias)
_digits = partial(OdeResNet, (4, 4), (16, 32, 32), field=Free, times=(2.0, 2.0), num_classes=10)

# Parameters of the first three: Table 1. The others' by arithmetic, as are batch statistics and
# multiply-accumulates; of those of `ode_resnet_lipschitz` 287,047,680 are of the bounds of its kernels'
# norms, which are made once for all images.
VARIANTS = {
    "parabolic_cifar10": _row(partial(_pde, field=Parabolic), _RH, 502_570, 640, 162_219_104),
    "leapfrog_cifar10": _row(
        partial(_pde, field=Parabolic, method=Leapfrog()), _RH, 502_570, 640, 162_219_104
    ),
    "hamiltonian_cifar10": _row(partial(_pde, field=Hamiltonian), _RH, 264_106, 640, 83_919_968),
    "ode_resnet": _row(_ode, "Haber & Ruthotto 2017", 591_386, 3_040, 86_688_384),
    "ode_resnet_spline": _row(
        partial(_ode, basis=b_spline, num_coefficients=4), "Queiruga et al. 2021", 396_954, 3_040, 86_688_384
    ),
    "ode_resnet_tied": _row(
        partial(_ode, num_coefficients=1), "Chen et al. 2018", 105_306, 3_040, 86_688_384
    ),
    "ode_resnet_augmented": _row(
        partial(_ode, num_coefficients=1, augmented=8), "Dupont et al. 2019", 105_074, 3_024, 86_467_200
    ),
    "ode_resnet_lm": _row(
        partial(_ode, method=LinearMultistep), "Lu et al. 2018", 591_404, 3_040, 86_688_384
    ),
    "ode_resnet_momentum": _row(
        partial(_ode, method=Momentum(0.9), reversible=True), "Sander et al. 2021", 591_386, 3_040, 86_688_384
    ),
    "ode_resnet_revnet": _row(
        partial(_ode, field=Pair, times=(6.0, 6.0, 6.0), reversible=True),
        "Gomez et al. 2017",
        301_082,
        3_040,
        44_221_056,
    ),
    "ode_resnet_midpoint": _row(
        partial(_antisymmetric, method=TwoStepMidpoint(), reversible=True),
        "Chang et al. 2018",
        299_066,
        352,
        44_221_056,
    ),
    "ode_resnet_antisymmetric": _row(_antisymmetric, "Haber & Ruthotto 2017", 299_066, 352, 44_221_056),
    "ode_resnet_lipschitz": _row(
        partial(_ode, field=ConvexPotential, times=(6.0, 6.0, 6.0), frame=PADDING),
        "Meunier et al. 2022",
        291_626,
        0,
        371_982_976,
    ),
    "ode_resnet_digits": Variant(
        _digits,
        "Haber & Ruthotto 2017",
        95_098,
        928,
        2_417_984,
        input_shape=(8, 8, 1),
        num_classes=10,
        mean=(0.305,),  # of scikit-learn's digits
        std=(0.376,),
        resize=8,
    ),
}
