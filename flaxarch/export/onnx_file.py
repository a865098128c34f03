"""A network's evaluation as an ONNX file.

Written from JAX's own trace of the network, not from the module: what the network computes is what is in the
file, and a family needs no second description.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxarch.export.description import InputShape, description, evaluation, needed, whole_or_not_at_all
from flaxarch.export.graph import CannotExport, Graph
from flaxarch.export.simplify import simplify
from flaxarch.export.tracing import traced
from flaxarch.layers import Network

OPSET = 17  # of June 2022: all of the operations used, and runtimes of the last years read it
_IR_VERSION = 8  # which came with it
_MOST = 2**31 - 2**20  # bytes of a file: one protocol buffer holds two gigabytes


class OnnxFile(NamedTuple):
    """What was written."""

    input_shape: InputShape  # height, width, channels, whatever the layout
    layout: str
    operations: dict[str, int]  # how many nodes of each
    num_bytes: int


def write_onnx(
    path: str | os.PathLike[str],
    model: Network,
    variables: Any,
    *,
    input_shape: InputShape | None = None,
    layout: Literal["NCHW", "NHWC"] = "NCHW",
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> OnnxFile:
    """Write the network as it evaluates: "images", any number of them -> "logits", in float32, opset 17.

    Batch norms are in the convolutions where one follows another. The file's `metadata_props` say what the
    metadata of a `.safetensors` by `flaxarch.save` says, and the layout. The file appears whole or not at
    all, and not unless onnx's checker, shapes included, finds it right.

    Args:
      path: of the file.
      model: its `dtype` does not count.
      variables: {"params": ..., "batch_stats": ...}.
      input_shape: height, width and channels of an image, which the file has fixed; None: the row's.
      layout: of the images, and of maps of logits: "NCHW", as torch's exports have it, or "NHWC", as JAX.
      preprocessing: other values for fields of the row that say how pictures become images.
      classes: their names.

    Raises CannotExport, a ValueError, where the network has an operation that has no form in ONNX here, and
    names it; ModuleNotFoundError where the package onnx is missing.
    """
    onnx = needed("onnx", "an ONNX file")
    if layout not in ("NCHW", "NHWC"):
        raise ValueError(f"a layout is NCHW or NHWC, and not {layout!r}")
    said, shape = description(model, input_shape, preprocessing, classes)
    graph = traced(evaluation(model.clone(dtype=np.float32)), variables, shape, layout)
    simplify(graph)
    size = sum(x.nbytes for x in graph.constants.values())
    if size > _MOST:
        raise CannotExport(f"the weights have {size:,} bytes, and an ONNX file holds two gigabytes")
    proto = model_proto(graph, said | {"layout": layout})
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString()
    with whole_or_not_at_all(path) as part:
        part.write_bytes(content)
    operations: dict[str, int] = {}
    for node in graph.nodes:
        operations[node.op] = operations.get(node.op, 0) + 1
    return OnnxFile(shape, layout, dict(sorted(operations.items())), len(content))


def model_proto(graph: Graph, said: Mapping[str, str]) -> Any:
    """The graph as onnx's own, with what is said of it; "name" is the graph's."""
    onnx = needed("onnx", "an ONNX file")
    helper, (output,) = onnx.helper, graph.outputs
    renamed = {output: "logits"}
    nodes = [
        helper.make_node(
            node.op,
            [renamed.get(name, name) for name in node.inputs],
            [renamed.get(name, name) for name in node.outputs],
            node.name,
            **node.attributes,
        )
        for node in graph.nodes
    ]
    float32 = onnx.TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info(renamed.get(name, name), float32, _lengths(graph.shapes[name]))
        for name in (graph.input, output)
    ]
    weights = [onnx.numpy_helper.from_array(x, name) for name, x in graph.constants.items()]
    inner = helper.make_graph(nodes, said["name"], ends[:1], ends[1:], weights)
    imports = [helper.make_opsetid("", OPSET)]
    proto = helper.make_model(inner, opset_imports=imports, ir_version=_IR_VERSION, producer_name="flaxarch")
    helper.set_model_props(proto, dict(said))
    return proto


def _lengths(shape: Sequence[Any]) -> list[int | str]:
    return [n if isinstance(n, int) else "N" for n in shape]


def run_onnx(path: str | os.PathLike[str], images: np.ndarray) -> np.ndarray:
    """What onnxruntime computes on CPU from a file and images (N, H, W, C): logits, a map as (N, H, W, K).

    ModuleNotFoundError: onnxruntime, which only this needs, is not installed.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    is_nchw = session.get_modelmeta().custom_metadata_map["layout"] == "NCHW"
    x = images.transpose(0, 3, 1, 2) if is_nchw else images
    results: Any = session.run(None, {given.name: np.ascontiguousarray(x, np.float32)})
    (logits,) = results
    return logits.transpose(0, 2, 3, 1) if is_nchw and logits.ndim == 4 else logits
