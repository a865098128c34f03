"""Where a step runs: one program per device (`pmap`), or one program over a mesh of devices (`mesh`).

Both take the same pure step and the same batches, and keep the state on every device; under `pmap` the step
sees a share of the batch and an axis name, under `mesh` it sees the whole batch and the compiler splits it.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.config import Config, ConfigError
from train.step import EvalStep, TrainStep

_AXIS = "data"


class Partitioner(Protocol):
    """A way to spread steps over devices."""

    @property
    def num_devices(self) -> int:
        """Devices of all processes."""
        ...

    def checkpoint_sharding(self, shape: jax.ShapeDtypeStruct) -> NamedSharding:
        """Where an array of a state lies that is read from a checkpoint, on the devices of all processes."""
        ...

    def compile_train(self, train_step: TrainStep, teacher: Any = None) -> Any:
        """train_step(state, batch) -> (state, metrics) on sharded batches; it donates `state`.

        `teacher` is that of every step: an argument of the compiled program, not a part of it.
        """
        ...

    def compile_eval(self, eval_step: EvalStep) -> Any:
        """eval_step(params, batch_stats, batch) -> metrics on sharded batches."""
        ...

    def shard_batch(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """This process's share of a batch, laid out over its devices."""
        ...

    def replicate(self, tree: Any) -> Any:
        """Arrays that every process has computed for itself, whole on every device of compiled steps."""
        ...

    def place(self, state: Any) -> Any:
        """A state that every process has computed for itself, as compiled steps take it."""
        ...

    def to_global(self, tree: Any) -> Any:
        """A state of compiled steps as arrays that span all processes, which checkpoints are made of."""
        ...

    def from_global(self, tree: Any) -> Any:
        """A state from a checkpoint as compiled steps take it."""
        ...


class MeshPartitioner:
    """jit over a one-dimensional mesh. Reductions, batch statistics among them, are over the global batch.

    With `shard_params`, each array of the state is split along its longest axis that the devices can share
    equally, as in Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054 (ZeRO, stage 3); the compiler
    brings the parts together where a step needs the whole.
    """

    def __init__(self, devices: Sequence[Any] | None = None, shard_params: bool = False) -> None:
        mesh = Mesh(np.array(devices or jax.devices()), (_AXIS,))
        self.num_devices = mesh.size
        self._mesh, self._shard_params = mesh, shard_params
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._batch_sharding = NamedSharding(mesh, PartitionSpec(_AXIS))

    def checkpoint_sharding(self, shape: Any) -> NamedSharding:
        """See `Partitioner`."""
        sizes = [n if n % self.num_devices == 0 else 0 for n in shape.shape]
        if not self._shard_params or not any(sizes):
            return self._whole
        axis = sizes.index(max(sizes))
        return NamedSharding(self._mesh, PartitionSpec(*[None] * axis, _AXIS))

    def compile_train(self, train_step: TrainStep, teacher: Any = None) -> Any:
        """See `Partitioner`."""
        teacher = self.replicate(teacher)

        @cache
        def compiled(shardings: Any) -> Any:
            state = jax.tree.unflatten(*shardings)
            return jax.jit(train_step, out_shardings=(state, self._whole), donate_argnums=0)

        def run(state: Any, batch: Any) -> Any:
            leaves, structure = jax.tree.flatten(state)
            step = compiled((structure, tuple(leaf.sharding for leaf in leaves)))
            return step(state, batch, None, teacher)

        return run

    def compile_eval(self, eval_step: EvalStep) -> Any:
        """See `Partitioner`."""
        return jax.jit(eval_step, out_shardings=self._whole)

    def shard_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """See `Partitioner`."""
        place = partial(jax.make_array_from_process_local_data, self._batch_sharding)
        return jax.tree.map(place, batch)

    def replicate(self, tree: Any) -> Any:
        """See `Partitioner`."""
        return jax.device_put(tree, self._whole)

    def place(self, state: Any) -> Any:
        """See `Partitioner`."""
        return jax.device_put(state, jax.tree.map(self.checkpoint_sharding, state))

    def to_global(self, tree: Any) -> Any:
        """See `Partitioner`."""
        return tree

    def from_global(self, tree: Any) -> Any:
        """See `Partitioner`."""
        return tree


class PmapPartitioner:
    """pmap with a state that has no device axis.

    The state is put on every device beforehand: pmap donates it only where it need not be moved.
    """

    def __init__(self, devices: Sequence[Any] | None = None) -> None:
        self._devices = list(devices or jax.devices())
        local = [device for device in self._devices if device.process_index == jax.process_index()]
        local_mesh = Mesh(np.array(local), (_AXIS,))
        self.num_devices = len(self._devices)
        self._num_local = len(local)
        self._global_mesh = Mesh(np.array(self._devices), (_AXIS,))
        self._state_sharding = NamedSharding(local_mesh, PartitionSpec())
        self._batch_sharding = NamedSharding(local_mesh, PartitionSpec(_AXIS))

    def checkpoint_sharding(self, shape: Any) -> NamedSharding:
        """See `Partitioner`."""
        return NamedSharding(self._global_mesh, PartitionSpec())

    def compile_train(self, train_step: TrainStep, teacher: Any = None) -> Any:
        """See `Partitioner`."""
        teacher = self.replicate(teacher)

        def on_device(state: Any, batch: Any, teacher: Any) -> Any:
            return train_step(state, batch, _AXIS, teacher)

        step = jax.pmap(
            on_device,
            _AXIS,
            in_axes=(None, 0, None),
            out_axes=None,  # pyright: ignore[reportArgumentType]  # as in_axes, but annotated otherwise
            devices=self._devices,
            donate_argnums=0,
        )
        return lambda state, batch: step(state, batch, teacher)

    def compile_eval(self, eval_step: EvalStep) -> Any:
        """See `Partitioner`."""
        return jax.pmap(
            partial(eval_step, axis_name=_AXIS),
            _AXIS,
            in_axes=(None, None, 0),
            out_axes=None,  # pyright: ignore[reportArgumentType]
            devices=self._devices,
        )

    def shard_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """See `Partitioner`. (N, ...) -> (local devices, N / local devices, ...)."""

        def place(x: np.ndarray) -> jax.Array:
            return jax.device_put(x.reshape(self._num_local, -1, *x.shape[1:]), self._batch_sharding)

        return jax.tree.map(place, batch)

    def replicate(self, tree: Any) -> Any:
        """See `Partitioner`."""
        return jax.device_put(tree, self._state_sharding)

    def place(self, state: Any) -> Any:
        """See `Partitioner`."""
        return self.replicate(state)

    def to_global(self, tree: Any) -> Any:
        """See `Partitioner`. pmap's results know the devices of their own process only."""
        if jax.process_count() == 1:
            return tree
        return multihost_utils.host_local_array_to_global_array(tree, self._global_mesh, PartitionSpec())

    def from_global(self, tree: Any) -> Any:
        """See `Partitioner`."""
        if jax.process_count() > 1:
            tree = multihost_utils.global_array_to_host_local_array(tree, self._global_mesh, PartitionSpec())
        return self.replicate(tree)


def make_partitioner(config: Config) -> Partitioner:
    """The one that the configuration asks for. Raises ConfigError where it does not fit the devices."""
    if config.parallel == "mesh":
        return MeshPartitioner(shard_params=config.shard_params)
    partitioner, together = PmapPartitioner(), config.batch_norm_devices
    if together is not None and partitioner.num_devices % together:
        raise ConfigError(
            f"batch_norm_devices is {together}, which does not divide the {partitioner.num_devices} devices"
        )
    return partitioner


def check_batch_size(batch_size: int, num_devices: int, accumulate: int = 1) -> None:
    """ConfigError if the devices cannot share a batch equally, or a device its share among the parts."""
    unit = num_devices * accumulate
    if batch_size % unit:
        below = batch_size // unit * unit
        near = " or ".join(str(size) for size in (below, below + unit) if size)
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise ConfigError(
            f"batch_size {batch_size} does not give {num_devices} devices equal shares{parts}; "
            f"it has to be a multiple of {unit}, such as {near}"
        )
