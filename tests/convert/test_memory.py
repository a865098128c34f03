"""How much memory a large file takes while it is loaded."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import flaxarch
from flaxarch.convert.recognise import shapes_of

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, jax, flaxarch
flaxarch.convert  # imported ahead of the measurement, and the device made
jax.numpy.zeros(1).block_until_ready()
def mib(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) / 1024
before = mib("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
jax.block_until_ready(flaxarch.load(sys.argv[1])[1])
print("peak", mib("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_and_model_are_not_in_memory_together(suffix: str, tmp_path: Path):
    model = flaxarch.create("alexnet")  # 233 MiB, of which one layer has 144
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), shapes_of(model))
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        flaxarch.convert.write_torch(path, flaxarch.to_torch(model, variables))
    else:
        flaxarch.save(path, model, variables)
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    found = re.fullmatch(r"peak ([\d.]+)\n", out.stdout)
    assert found is not None
    assert float(found[1]) < 1.3 * path.stat().st_size / 2**20
