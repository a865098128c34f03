"""Convolution, pooling and batch norm, each in the form that the backend runs fast."""

from flaxarch.ops.conv import conv_general_dilated
from flaxarch.ops.lowering import native_forms, use_native_forms
from flaxarch.ops.memory import keep_freed_memory, prepare_memory
from flaxarch.ops.native import cpu_kernels, use_cpu_kernels, wants_cpu_kernels
from flaxarch.ops.norm import moments, scale_and_shift
from flaxarch.ops.pool import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool, subsample

__all__ = [
    "adaptive_avg_pool",
    "avg_pool",
    "conv_general_dilated",
    "cpu_kernels",
    "global_avg_pool",
    "keep_freed_memory",
    "max_pool",
    "moments",
    "native_forms",
    "prepare_memory",
    "scale_and_shift",
    "subsample",
    "use_cpu_kernels",
    "use_native_forms",
    "wants_cpu_kernels",
]
