"""The same by `torch.compile`, with its defaults."""

from functools import partial

from benchmarks.speed.contenders import of_torch

prepare = partial(of_torch.prepare, compile_it=True)
