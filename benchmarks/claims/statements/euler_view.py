"""A residual network is Euler's method: its stages as vector fields, by steps of one, give its logits."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxarch
from benchmarks.claims.claim import Check, Claim, Measured, Places
from flaxarch.depth import EULER, RK4, Flow, Solver, apply_flows, solve
from train.data import open_dataset
from train.step import normalise

IMAGES = 500


def _ends(solver: Solver, steps_per_block: float) -> Any:
    def end(flow: Flow, x: jax.Array, theta: Any) -> jax.Array:
        steps = max(1, round(steps_per_block * flow.num_blocks))
        return solve(flow.vector_field, x, theta, flow.times(steps), solver)

    return end


def measure(seed: int, places: Places) -> Measured:
    """Largest difference of logits, over the largest logit, and what other steps do to accuracy."""
    assert places.weights is not None  # the ledger has seen to it
    test = open_dataset("cifar10", places.cifar10).test
    pixels, labels = test.load(np.arange(0, len(test), len(test) // IMAGES))  # of all classes
    values: dict[str, float] = {}
    networks: dict[str, tuple[Any, Any]] = {}
    for name in ("resnet20", "seresnet20", "parabolic_cifar10"):
        model: Any = flaxarch.create(name)
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        params, batch_stats = flaxarch.functional(model).init(jax.random.key(seed), images)
        networks[f"{name}, drawn"] = model, {"params": params, "batch_stats": batch_stats}
    (path,) = (places.weights / "cifar10-resnet").glob("resnet32-*.th")
    networks["resnet32, released"] = flaxarch.load(path, "resnet32")
    for name, (model, variables) in networks.items():
        row = flaxarch.published(name.partition(",")[0])
        is_released = name.endswith("released")
        # the released weights' images, as their README has them, are those of the row
        images = normalise(jnp.asarray(pixels[: IMAGES if is_released else 50]), row.mean, row.std)

        @partial(jax.jit, static_argnames=("solver", "per_block"))
        def logits(
            variables: Any, images: jax.Array, solver: Any = None, per_block: float = 1.0, model: Any = model
        ) -> jax.Array:
            if solver is None:
                return model.apply(variables, images, train=False)
            return apply_flows(model, variables, images, _ends(solver, per_block))

        network = logits(variables, images)
        euler = logits(variables, images, solver=EULER)
        values[f"difference, {name}"] = float(abs(euler - network).max() / abs(network).max())
        if is_released:
            for words, solver, per_block in (
                ("the network", None, 1.0),
                ("Euler, 2 steps a block", EULER, 2.0),
                ("RK4, 1 step a block", RK4, 1.0),
                ("Euler, a step for 2 blocks", EULER, 0.5),
            ):
                found = logits(variables, images, solver=solver, per_block=per_block)
                values[f"accuracy, {words}"] = 100 * float((found.argmax(-1) == jnp.asarray(labels)).mean())
    return Measured(values)


CLAIM = Claim(
    "Euler's method with a step for each block is the residual network, released weights included.",
    "E 2017; Lu et al. 2018, Sec. 1",
    "Each row of alike blocks is a vector field, in float32. The released ResNet-32 on every "
    f"{10_000 // IMAGES}th test image of CIFAR-10, the others with drawn weights on 50. What other steps and "
    "solvers leave of the released network's accuracy is kept, but no part of the claim.",
    measure,
    tuple(
        Check(f"difference, {name}", high=1e-6)
        for name in (
            "resnet20, drawn",
            "seresnet20, drawn",
            "parabolic_cifar10, drawn",
            "resnet32, released",
        )
    ),
    needs=("cifar10", "weights"),
)
