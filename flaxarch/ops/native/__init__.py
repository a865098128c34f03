"""Convolution, pooling and batch norm's sums on CPU, where asked for: at torch's speed, grouped or not.

Needs the extra `cpu` and a C++ compiler. `flaxarch.ops` takes these kernels for what they can do, and its own
forms for the rest.
"""

from flaxarch.ops.native.conv import convolve, takes_convolution
from flaxarch.ops.native.memory import keep_freed_memory, prepare_memory
from flaxarch.ops.native.norm import moments, products, takes_norm
from flaxarch.ops.native.pool import max_pool, sum_pool, takes_pool
from flaxarch.ops.native.switch import cpu_kernels, use_cpu_kernels, wants_cpu_kernels

__all__ = [
    "convolve",
    "cpu_kernels",
    "keep_freed_memory",
    "max_pool",
    "moments",
    "prepare_memory",
    "products",
    "sum_pool",
    "takes_convolution",
    "takes_norm",
    "takes_pool",
    "use_cpu_kernels",
    "wants_cpu_kernels",
]
