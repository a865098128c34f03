"""What a benchmark ran on, in words."""

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def cores() -> str:
    """As "2 cores of AMD EPYC, family 26, model 2"."""
    return f"{os.cpu_count()} cores of {cpu()}"


def cpu() -> str:
    """The CPU's name with its family and model, which tell more: a virtual machine often hides the name."""
    if not _CPUINFO.exists():
        return platform.processor() or platform.machine()
    lines = _CPUINFO.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if not {"model name", "cpu family", "model"} <= {*found}:  # on other architectures than x86
        return platform.machine()
    return f"{found['model name']}, family {found['cpu family']}, model {found['model']}"
