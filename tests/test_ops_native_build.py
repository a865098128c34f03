"""How the native kernels are built, and how one does without them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_ops_native import kernels, needs_kernels  # noqa: F401, the fixture

ROOT = Path(__file__).parents[1]
PROBE = """
import warnings
import jax.numpy as jnp
from flaxarch import ops

x, w = jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        ops.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
for warning in said:
    print("warning:", warning.message)
print("kernels:", ops.cpu_kernels())
"""


def probe(cache: Path, python: str = PROBE, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), "FLAXARCH_CPU_KERNELS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", python]
    return subprocess.Popen(command, env={**env, **environment}, stdout=subprocess.PIPE, text=True)


def said_by(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return out.splitlines()


@needs_kernels
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PATH": "", "CXX": ""}, "no compiler 'g++'"),
        ({"CXX": "false"}, "do not compile"),
    ],
)
def test_without_a_compiler_one_warning_says_so(tmp_path: Path, environment: dict[str, str], reason: str):
    warning, found = said_by(probe(tmp_path, **environment))
    assert warning.startswith("warning: flaxarch runs without its CPU kernels: ")
    assert reason in warning
    assert found == "kernels: False"


def test_without_onednn_one_warning_says_what_to_install(tmp_path: Path):
    hide = """
from importlib import metadata

def absent(name):
    raise metadata.PackageNotFoundError(name)

metadata.files = absent
"""
    warning, found = said_by(probe(tmp_path, hide + PROBE))
    assert "is not installed (pip install 'flaxarch[cpu]')" in warning
    assert found == "kernels: False"


@needs_kernels
@pytest.mark.slow
def test_processes_may_build_at_the_same_time(tmp_path: Path):
    for process in [probe(tmp_path) for _ in range(3)]:
        assert said_by(process) == ["kernels: True"]
    assert len(list((tmp_path / "flaxarch").iterdir())) == 1  # nothing is left over
