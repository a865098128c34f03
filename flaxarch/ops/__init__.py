"""Convolution and pooling, in the form that the backend runs fast; the same functions everywhere."""

from flaxarch.ops.conv import conv_general_dilated
from flaxarch.ops.lowering import native_forms, use_native_forms
from flaxarch.ops.native import cpu_kernels, use_cpu_kernels
from flaxarch.ops.pool import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool, subsample

__all__ = [
    "adaptive_avg_pool",
    "avg_pool",
    "conv_general_dilated",
    "cpu_kernels",
    "global_avg_pool",
    "max_pool",
    "native_forms",
    "subsample",
    "use_cpu_kernels",
    "use_native_forms",
]
