"""Networks for others to run: ONNX files, and StableHLO that JAX runs without the network's code."""

from flaxarch.export.graph import CannotExport
from flaxarch.export.onnx_file import OPSET, OnnxFile, run_onnx, write_onnx
from flaxarch.export.stablehlo import PLATFORMS, Exported, StablehloFile, read_stablehlo, write_stablehlo

__all__ = [
    "OPSET",
    "PLATFORMS",
    "CannotExport",
    "Exported",
    "OnnxFile",
    "StablehloFile",
    "read_stablehlo",
    "run_onnx",
    "write_onnx",
    "write_stablehlo",
]
