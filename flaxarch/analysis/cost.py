"""What a network costs, layer by layer: found by tracing its evaluation, without computing it."""

import difflib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxarch.analysis.layers import LayerCost, Path, collect_layers
from flaxarch.ops import use_native_forms


@dataclass(frozen=True)
class Cost:
    """What a network, or a part of it, costs for one image. Prints as a table."""

    input_shape: tuple[int, int, int]
    layers: tuple[LayerCost, ...]  # in order of execution; what evaluation does not run stands last

    @property
    def num_params(self) -> int:
        """Elements of the parameters."""
        return sum(layer.num_params for layer in self.layers)

    @property
    def num_batch_stats(self) -> int:
        """Elements of the running means and variances."""
        return sum(layer.num_batch_stats for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and dense layers, without biases, norms and pools."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all layers' outputs together: about what training keeps of one image.

        Outputs of activation functions, residual sums and concatenations are not counted, nor is the image.
        """
        return sum(layer.activation_bytes for layer in self.layers)

    def of(self, path: str) -> "Cost":
        """The part in one module, as `"layer1_0"` or `"layer1_0/conv1"`; `""` as in `by_module`."""
        layers = tuple(layer for layer in self.layers if f"{layer.path}/".startswith(f"{path}/"))
        if not layers:
            paths = {"/".join(layer.path.split("/")[:i]) for layer in self.layers for i in range(1, 9)}
            near = difflib.get_close_matches(path, paths, n=3)
            hint = f": did you mean {', '.join(near)}?" if near else ""
            raise ValueError(f"there is no layer in a module {path!r}{hint}")
        return replace(self, layers=layers)

    def by_module(self, depth: int = 1) -> "dict[str, Cost]":
        """The parts by the first `depth` names of their paths; `""` is what stands in the network itself."""
        parts: dict[str, list[LayerCost]] = {}
        for layer in self.layers:
            parts.setdefault("/".join(layer.path.split("/")[:depth]), []).append(layer)
        return {path: replace(self, layers=tuple(layers)) for path, layers in parts.items()}

    def __str__(self) -> str:
        head = ("layer", "kind", "output", "params", "MACs", "bytes", "sees", "stride")
        rows = [
            (
                layer.path or "(network)",
                layer.kind,
                _times(layer.output_shape),
                f"{layer.num_params:,}",
                f"{layer.macs:,}",
                f"{layer.activation_bytes:,}",
                _times(layer.receptive_field),
                _times(layer.stride),
            )
            for layer in self.layers
        ]
        total = ("total", "", "", f"{self.num_params:,}", f"{self.macs:,}", f"{self.activation_bytes:,}")
        table = [head, *rows, (*total, "", "")]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def cost(model: nn.Module, input_shape: Sequence[int]) -> Cost:
    """Parameters, multiply-accumulates, activation memory and receptive field of a network and its layers.

    >>> total = flaxarch.cost(flaxarch.create("resnet50"), (224, 224, 3))
    >>> total.macs, total.num_params
    (4089184256, 25557032)
    >>> total.of("layer4_2").layers[-1].receptive_field
    (427, 427)

    The counts are exact, for one image (H, W, C) in evaluation; nothing but shapes goes through the network.
    MACs are those of products of the image's features with parameters, so that pooling or resizing by a
    matrix product has none. A transposed convolution multiplies no inserted zeros. Parameters that only
    training uses, such as auxiliary heads, are layers without an output. A receptive field is the window of
    the image, extended over its borders, on which a unit of the layer's output depends; behind global pooling
    it is the image. It is of the unit that sees most, where units differ.
    """
    try:
        sizes = tuple(map(operator.index, input_shape))
    except TypeError:
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"input_shape is (H, W, C) of one image, positive integers, not {input_shape!r}")
    images = jax.ShapeDtypeStruct((1, *sizes), jnp.float32)
    modules: dict[Path, str] = {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        modules[context.module.path] = type(context.module).__name__
        return call(*args, **kwargs)

    with use_native_forms(True), nn.override_named_call(True), nn.intercept_methods(note):
        variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
        jaxpr = jax.make_jaxpr(partial(model.apply, train=False))(variables, images)
    return Cost(sizes, collect_layers(jaxpr, variables, modules))


def _times(sizes: Sequence[float]) -> str:
    return "x".join(f"{size:g}" for size in sizes)
