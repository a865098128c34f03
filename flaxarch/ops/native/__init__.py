"""Convolution on CPU, where asked for: at torch's speed, grouped or not.

Needs the extra `cpu` and a C++ compiler. `flaxarch.ops` takes these kernels for what they can do, and its own
forms for the rest.
"""

from flaxarch.ops.native.conv import convolve, takes_convolution
from flaxarch.ops.native.switch import cpu_kernels, use_cpu_kernels, wants_cpu_kernels

__all__ = [
    "convolve",
    "cpu_kernels",
    "takes_convolution",
    "use_cpu_kernels",
    "wants_cpu_kernels",
]
