"""The same by `torch.compile`, with its defaults."""

from functools import partial

from benchmarks.speed.contenders import torch

prepare = partial(torch.prepare, compile_it=True)
