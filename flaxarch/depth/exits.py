"""Early exits: heads inside a network that answer before its last one does.

The auxiliary heads of the Inceptions (Szegedy et al. 2015, Sec. 5) serve as exits, and any network takes some
of its own, as in BranchyNet: Teerapittayanon et al. 2016, https://arxiv.org/abs/1709.01686. When to leave by
one is in `flaxarch.depth.anytime`, what it costs in `flaxarch.depth.segments`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
from flax import linen as nn

from flaxarch.depth.trunk import blocks, unrolled, watch_calls
from flaxarch.layers import TORCH, ModuleDef, Network
from flaxarch.ops import global_avg_pool


class Exit(nn.Module):
    """Global average pooling and a dense layer: (N, H, W, C) -> logits (N, num_classes)."""

    num_classes: int
    dense: ModuleDef
    norm: ModuleDef | None  # ahead of them with a ReLU; None: neither

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.norm is not None:
            x = nn.relu(self.norm(name="bn")(x))
        x = global_avg_pool(x)
        return self.dense(self.num_classes, x.shape[-1], name="fc")(x)  # float32 logits at any dtype


class WithExits(Network):
    """A network with exits behind some of its modules: images -> logits, in training (logits, aux_logits).

    Made by `with_exits`. The exits are modules `exit1`, `exit2` and so on, and the network is `network`: a
    trained one's variables may be put there. It takes `gates` where it is residual, and `exits` as networks
    with auxiliary heads do. Classes, dtype and axis name of the network are those of the whole.
    """

    network: Network
    after: tuple[str, ...]  # names of modules of the network, such as blocks, in order of execution
    normed: bool = False  # batch norm and ReLU in each exit
    exit_weight: float = 1.0  # in the training loss, of each exit's loss

    def __post_init__(self) -> None:
        if self.network.aux_heads:
            raise ValueError(f"this {type(self.network).__name__} has auxiliary heads, which are its exits")
        network = self.network.clone(num_classes=self.num_classes, dtype=self.dtype, axis_name=self.axis_name)
        object.__setattr__(self, "network", unrolled(network))  # blocks in a loop are not seen one by one
        super().__post_init__()

    @property
    def head(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The module that gives the last logits."""
        return f"network/{self.network.head}"

    @property
    def aux_heads(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The layers that give the logits of the exits."""
        return tuple(f"exit{k}/fc" for k in range(1, len(self.after) + 1))

    @property
    def aux_weight(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`exit_weight`, as networks with auxiliary heads call it."""
        return self.exit_weight

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        gates: jax.Array | None = None,
        exits: bool | None = None,
    ) -> jax.Array | tuple[jax.Array, tuple[jax.Array, ...]]:
        exits = train if exits is None else exits
        given: dict[str, Any] = {} if gates is None else {"gates": gates}
        start, left = len(self.network.path), dict[str, jax.Array]()

        def watch(module: nn.Module, x: jax.Array, proceed: Any) -> Any:
            del x
            y = proceed()
            if module.path[:start] == self.network.path:  # not within a block that is run by itself
                left["/".join(module.path[start:])] = y
            return y

        with watch_calls(watch):
            logits = self.network(images, train=train, **given)
        if unknown := [name for name in self.after if name not in left]:
            raise ValueError(f"{type(self.network).__name__} calls no module {unknown[0]!r} to exit behind")
        if (order := tuple(name for name in left if name in self.after)) != self.after:
            raise ValueError(f"exits are in order of execution, which is {order}, not {self.after}")
        if not (exits or self.is_initializing()):
            return logits
        conventions = getattr(self.network, "conventions", TORCH)
        norm = conventions.norm(train, self.dtype, self.axis_name) if self.normed else None
        heads = [
            Exit(self.num_classes, conventions.dense, norm, name=f"exit{k}")
            for k in range(1, len(self.after) + 1)
        ]
        aux_logits = tuple(head(left[name]) for head, name in zip(heads, self.after, strict=True))
        return logits if self.is_initializing() else (logits, aux_logits)


def with_exits(
    network: Network, after: Sequence[str], *, normed: bool = False, exit_weight: float = 1.0
) -> WithExits:
    """A network with exits, each of them global average pooling and a dense layer.

    >>> network = flaxarch.create("resnet56")
    >>> model = with_exits(network, stage_ends(network, (32, 32, 3)))
    >>> variables["params"]["network"] = trained["params"]            # and the same for "batch_stats"

    Raises ValueError where the network has auxiliary heads of its own.

    Args:
      network: any other.
      after: names of its modules, such as blocks, behind which the exits are, in order of execution.
      normed: batch norm and ReLU ahead of the pool, as the sums of pre-activation networks need.
      exit_weight: of each exit's loss in the training loss, in which the last head's has 1.
    """
    return WithExits(
        network,
        tuple(after),
        normed,
        exit_weight,
        num_classes=network.num_classes,
        dtype=network.dtype,
        axis_name=network.axis_name,
    )


def stage_ends(model: nn.Module, input_shape: Sequence[int]) -> tuple[str, ...]:
    """The last block of each stage but the last, for `with_exits`: the one behind it changes the shape."""
    found = pairwise(blocks(model, input_shape))
    ends = tuple(block.paths[-1] for block, after in found if block.output_shape != after.output_shape)
    if not ends:
        raise ValueError(f"{type(model).__name__} is of one stage, within which nothing tells blocks apart")
    return ends
