"""Networks made deeper or shallower in the same time: Chang et al. 2018, https://arxiv.org/abs/1710.10348.

A stage's alike blocks are Euler's method for one differential equation (see `flow.py`); twice as many of half
the step compute the same to first order. The new blocks' parameters and batch statistics are those of the
stage's theta(t) at their times: with `piecewise_constant`, copies of the block before (Chang et al.). The
step goes into the branch, whose last scale is multiplied by the old number of blocks over the new one. So
what comes out is an ordinary network of other `stage_sizes`, which trains, is saved and runs as any other,
where gates would have to be given at every call. A stage's first block stays as it is where it changes the
shape, or is not like those that a deeper network has behind it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn

from flaxarch.depth.flow import Flow, flows
from flaxarch.loops import in_form_of, unstack_blocks
from flaxarch.models.preact_resnet import PreActResNet
from flaxarch.models.preact_unit import Unit, batch_norm, identity, projection, relu, strided_identity
from flaxarch.models.resnet import BasicBlock, Bottleneck, ResNet
from flaxarch.ode.bases import Basis, interpolate, piecewise_constant


def refine(
    model: nn.Module, variables: Any, input_shape: Sequence[int], *, basis: Basis = piecewise_constant
) -> tuple[Any, Any]:
    """The network with twice the alike blocks in each stage, of half the step, and its variables.

    >>> deeper, variables = refine(flaxarch.create("resnet20"), variables, (32, 32, 3))
    >>> deeper.stage_sizes                           # before (3, 3, 3), of which 3, 2, 2 are alike
    (6, 5, 5)

    Its logits are those of `model` up to the first order of the step. Raises ValueError as `resample`.
    """
    sizes = _resized(model, input_shape, lambda n: 2 * n)
    return resample(model, variables, input_shape, sizes, basis=basis)


def coarsen(
    model: nn.Module, variables: Any, input_shape: Sequence[int], *, basis: Basis = piecewise_constant
) -> tuple[Any, Any]:
    """The network with half the alike blocks in each stage, rounded up, of twice the step: undoes `refine`.

    Their variables are on a least-squares fit: with `piecewise_constant`, they are the means of neighbours.
    Raises ValueError as `resample`.
    """
    sizes = _resized(model, input_shape, lambda n: (n + 1) // 2)
    return resample(model, variables, input_shape, sizes, basis=basis)


def resample(
    model: nn.Module,
    variables: Any,
    input_shape: Sequence[int],
    stage_sizes: Sequence[int],
    *,
    basis: Basis = piecewise_constant,
    num_coefficients: int | None = None,
) -> tuple[Any, Any]:
    """The network of other `stage_sizes`, whose alike blocks have the variables of theta(t) at their times.

    Args:
      model: a ResNet or PreActResNet.
      variables: its `{"params": ..., "batch_stats": ...}`.
      input_shape: (H, W, C) of an image.
      stage_sizes: blocks per stage; its own for a network of the same depth and fewer coefficients.
      basis: of each stage's theta(t).
      num_coefficients: of the fit to a stage's alike blocks, where these are more: how far they are
        compressed (Queiruga et al. 2021). None: the lesser of the two numbers of blocks.

    Raises ValueError for any other network, for sizes that it cannot have, and where more blocks of less step
    would not be the same function: where the shortcut is not x, or batch norm is behind the sum.
    """
    rows, sizes = _alike(model, input_shape), tuple(stage_sizes)
    _check_sizes(model, rows, sizes)
    variables = unstack_blocks(variables)
    resized = {name: dict(tree) for name, tree in variables.items()}
    for stage, flow in rows.items():
        total, old, fit = _sizes(model)[stage - 1], flow.num_blocks, num_coefficients
        new = old + sizes[stage - 1] - total
        if new == old and (fit is None or fit >= old):
            continue
        theta = flow.stack(variables)
        theta = interpolate(theta, new, basis, num_coefficients=None if fit is None else min(fit, old))
        if new != old:
            theta["params"] = _scaled(flow.block, theta["params"], old / new)
        first = _place(flow)[1]
        for name, tree in resized.items():
            behind = [tree.pop(f"layer{stage}_{j}", {}) for j in range(first, total)][old:]
            added = [jax.tree.map(lambda x, j=j: x[j], theta[name]) for j in range(new)]
            subtrees = enumerate([*added, *behind], start=first)
            tree.update({f"layer{stage}_{j}": subtree for j, subtree in subtrees if subtree})
    model = model.clone(stage_sizes=sizes)  # pyright: ignore[reportCallIssue]
    return model, in_form_of(model, resized)


def _check_sizes(model: Any, rows: dict[int, Flow], sizes: tuple[int, ...]) -> None:
    if len(sizes) != len(_sizes(model)):
        raise ValueError(f"this network has {len(_sizes(model))} stages, and is given sizes of {len(sizes)}")
    for stage, (old, new) in enumerate(zip(_sizes(model), sizes, strict=True), start=1):
        if stage in rows and new <= (others := old - rows[stage].num_blocks):
            raise ValueError(f"stage {stage} has at least {others + 1} blocks, not {new}")
        if stage not in rows and new != old:
            raise ValueError(
                f"stage {stage} stays at {old} blocks: it has none like those that a deeper one has behind"
            )


def _sizes(model: Any) -> tuple[int, ...]:
    if not isinstance(model, ResNet | PreActResNet):
        raise ValueError(f"a {type(model).__name__} cannot be resized: take a ResNet or PreActResNet")
    return tuple(model.stage_sizes)


def _resized(model: Any, input_shape: Sequence[int], size: Callable[[int], int]) -> tuple[int, ...]:
    """Stage sizes with `size(n)` for n alike blocks."""
    rows = _alike(model, input_shape)
    change = {stage: size(flow.num_blocks) - flow.num_blocks for stage, flow in rows.items()}
    return tuple(n + change.get(stage, 0) for stage, n in enumerate(_sizes(model), start=1))


def _alike(model: Any, input_shape: Sequence[int]) -> dict[int, Flow]:
    """By stage, from 1, the row of blocks that are like those that it gets when it grows."""
    four = flows(model.clone(stage_sizes=tuple(4 for _ in _sizes(model))), input_shape)
    places = [_place(flow) for flow in four if flow.num_blocks > 1]
    return {_place(flow)[0]: flow for flow in flows(model, input_shape) if _place(flow) in places}


def _place(flow: Flow) -> tuple[int, int]:
    """Stage, from 1, and place in the stage, from 0, of a row's first block: of "layer1_0"."""
    stage, place = flow.paths[0].removeprefix("layer").split("_")
    return int(stage), int(place)


def _scaled(block: nn.Module, params: Any, factor: float) -> Any:
    """The parameters of a block, or of many stacked, with `factor` times its branch F(x)."""
    params = jax.tree.map(lambda x: x, params)
    excited = False
    if isinstance(block, Unit):
        act, last = block.activation, f"conv{sum(name.startswith('conv') for name in params)}"
        if block.shortcut not in (identity, projection, strided_identity):
            raise ValueError("units of a smaller step are another function: their shortcut is not x")
        if batch_norm in act.outer:
            raise ValueError("units of a smaller step are another function: batch norm is behind the sum")
        if not {*act.last} <= {batch_norm, relu}:
            raise ValueError("the step cannot go into these units: what ends their branch is not homogeneous")
        if batch_norm in act.last:
            last = last.replace("conv", "norm")
    elif isinstance(block, BasicBlock | Bottleneck):
        last, excited = ("bn2" if isinstance(block, BasicBlock) else "bn3"), block.excite is not None
    else:
        raise ValueError(f"the step cannot go into a {type(block).__name__}, whose last scale is not known")
    if not {"scale", "kernel"} & set(params[last]) or (excited and "se" not in params):
        raise ValueError(f"the step cannot go into this {type(block).__name__}: its {last} has no scale")
    params[last] = jax.tree.map(lambda x: factor * x, params[last])
    if excited:  # squeeze-and-excitation goes on to see the branch as it was
        params["se"]["fc1"]["kernel"] = params["se"]["fc1"]["kernel"] / factor
    return params
