"""Functions of images, each as ONNX: onnxruntime gives what JAX gives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import linen as nn
from jax import lax

from flaxarch import ops
from flaxarch.export.graph import CannotExport, Graph
from flaxarch.export.onnx_file import model_proto
from flaxarch.export.simplify import simplify
from flaxarch.export.tracing import traced
from flaxarch.layers import local_response_norm

SHAPE = (7, 8, 6)
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 6, 4)).astype(np.float32)
TABLE = np.array([4, 0, 0, 3])
ROW = RNG.normal(size=(1, 1, 1, 6)).astype(np.float32)
WHOLE = RNG.normal(size=(7, 8, 6, 3)).astype(np.float32)
UP = RNG.normal(size=(2, 2, 3, 6)).astype(np.float32)
MATRIX = RNG.normal(size=(6, 5)).astype(np.float32)


def graph_of(function: Callable[[jax.Array], jax.Array], layout: str = "NCHW") -> Graph:
    """As `write_onnx` makes it."""
    graph = traced(lambda _, images: function(images), {}, SHAPE, layout)
    simplify(graph)
    return graph


def outcome(graph: Graph, images: np.ndarray, layout: str = "NCHW") -> np.ndarray:
    """What onnxruntime makes of images (N, H, W, C), in JAX's layout."""
    proto = model_proto(graph, {"name": "test"})
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = images.transpose(0, 3, 1, 2) if layout == "NCHW" else images
    results: Any = session.run(None, {"images": np.ascontiguousarray(x)})
    (y,) = results
    return y.transpose(0, 2, 3, 1) if layout == "NCHW" and y.ndim == 4 else y


def _conv(x: Any, kernel: Any, **given: Any) -> jax.Array:
    given = {
        "window_strides": (1, 1),
        "padding": "SAME",
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    } | given
    return lax.conv_general_dilated(x, jnp.asarray(kernel), **given)


def _loop(x: jax.Array) -> jax.Array:
    return lax.scan(lambda x, a: (jnp.sin(a * x), None), x, jnp.arange(1.0, 4.0), reverse=True)[0]


def _shuffled(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:3], 2, 3).swapaxes(3, 4).reshape(x.shape)


def _pixels(x: jax.Array) -> jax.Array:
    y = jnp.einsum("nhwc,abfc->nhawbf", x, jnp.asarray(UP))
    return y.reshape(x.shape[0], 14, 16, 3)


FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "batch norm": lambda x: nn.relu(_conv(x, KERNEL) * ROW[..., :4] + 0.5 * ROW[..., 1:5]),
    "norm ahead": lambda x: _conv(nn.relu((x - ROW) * ROW + 1), KERNEL),
    "stride, dilation": lambda x: _conv(x, KERNEL, window_strides=(2, 1), rhs_dilation=(2, 1)),
    "groups": lambda x: _conv(x, KERNEL[:, :, :2, :3].repeat(2, 3), feature_group_count=3),
    "negative padding": lambda x: _conv(x, KERNEL, padding=((-1, 2), (0, -1))),
    "whole map": lambda x: _conv(x, WHOLE, padding="VALID") + 1,
    "max pool": lambda x: ops.max_pool(x, (3, 3), (2, 2), 1, ceil_mode=True),
    "avg pool": lambda x: ops.avg_pool(x, (2, 3), (2, 2), ((0, 1), (1, 1))),
    "avg pool without padding": lambda x: ops.avg_pool(x, (3, 3), (1, 1), "SAME", count_padding=False),
    "adaptive pool": lambda x: ops.adaptive_avg_pool(x, (3, 4)),
    "global pool": lambda x: x.mean(axis=(1, 2)) @ MATRIX + 1,
    "dense, scaled": lambda x: (
        (x.mean(axis=(1, 2)) @ MATRIX + ROW[0, 0, :, :5])[:, None, None] * ROW[..., 1:] + 1
    ),
    "squeeze and excite": lambda x: x * nn.sigmoid(x.mean(axis=(1, 2), keepdims=True) * ROW),
    "reduced": lambda x: x.max(axis=(1, 2)) + x.sum(axis=1).max(axis=1),
    "flat": lambda x: x.reshape(x.shape[0], -1) * 2,
    "shuffle": _shuffled,
    "pixels": _pixels,
    "repeated": lambda x: jnp.repeat(jnp.repeat(x, 2, axis=1), 3, axis=2),
    "concatenated": lambda x: jnp.concatenate([x, jnp.ones((*x.shape[:3], 2)), x * ROW], axis=-1),
    "split": lambda x: jnp.multiply(*jnp.split(x, 2, axis=-1)),
    "cut and padded": lambda x: lax.pad(x[:, 1:], 2.0, ((0, 0, 0), (1, -2, 0), (-1, 1, 0), (2, 1, 0))),
    "every second": lambda x: ops.subsample(x, (2, 3)),
    "chosen": lambda x: x[..., TABLE],
    "turned": lambda x: lax.rev(x, (1, 3)).transpose(0, 2, 1, 3),
    "response norm": lambda x: local_response_norm(x, 3, 0.1, 0.75, 1.0),
    "hard swish": lambda x: nn.hard_swish(x + ROW) + nn.hard_sigmoid(2 * x),
    "bounded": lambda x: jnp.clip(x, -0.5, 1) + nn.relu6(5 * x) + jnp.minimum(x, 0.2),
    "smooth": lambda x: nn.gelu(x, approximate=False) + jnp.tanh(x) + nn.silu(x) + jnp.exp(-x),
    "powers": lambda x: (1 + x * x) ** -0.75 + x**3 + lax.rsqrt(2 + jnp.square(x)) + 1 / (2 + x * x),
    "loop": _loop,
    "branch": lambda x: lax.cond(jnp.array(True), lambda x: -x, jnp.sin, x),
    "two layouts": lambda x: x[:, :, :6, :] + x[:, :6, :6, :].mean(axis=(1, 2))[:, None, None],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_onnx_computes_what_jax_computes(name: str):
    images = RNG.normal(size=(3, *SHAPE)).astype(np.float32)
    expected = jax.jit(FUNCTIONS[name])(images)
    np.testing.assert_allclose(outcome(graph_of(FUNCTIONS[name]), images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["norm ahead", "max pool", "global pool", "flat", "shuffle"])
def test_both_layouts_compute_the_same(name: str):
    images = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
    first, second = (
        outcome(graph_of(FUNCTIONS[name], layout), images, layout) for layout in ("NCHW", "NHWC")
    )
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def operations(name: str) -> list[str]:
    return [node.op for node in graph_of(FUNCTIONS[name]).nodes]


def test_what_onnx_has_a_word_for_is_one_node():
    assert operations("batch norm") == ["Conv", "Relu"]
    assert operations("norm ahead") == ["BatchNormalization", "Relu", "Conv"]
    assert operations("whole map") == ["Reshape", "Gemm", "Reshape"]
    assert operations("global pool") == ["GlobalAveragePool", "Reshape", "Gemm"]
    assert operations("dense, scaled") == ["GlobalAveragePool", "Reshape", "Gemm", "Reshape"]
    assert operations("avg pool without padding") == ["AveragePool"]
    assert operations("response norm") == ["LRN"]
    assert operations("shuffle") == ["Reshape", "Transpose", "Reshape"]
    assert operations("pixels") == ["Conv", "DepthToSpace"]
    assert sorted(operations("hard swish")) == ["Add", "Add", "HardSigmoid", "HardSwish"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: jnp.sort(x, axis=1), "'sort'"),
        (lambda x: lax.while_loop(lambda x: x.sum() < 1, lambda x: 2 * x, x), "'while'"),
        (lambda x: lax.conv_general_dilated(x, x[:1, :, :, :3], (1, 1), "SAME"), "kernel"),
        (lambda x: x.astype(jnp.bfloat16) * 2, "bfloat16"),
        (lambda x: jnp.zeros((2, 3)), "does not depend on the images"),
    ],
)
def test_what_has_no_form_is_named_in_a_sentence(function: Any, said: str):
    with pytest.raises(CannotExport, match=said):
        graph_of(function)
