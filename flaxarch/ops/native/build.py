"""Compiles `kernels.cc` at first use, keeps what comes of it in the user's cache, and tells XLA of it."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import warnings
from functools import cache
from importlib import metadata
from pathlib import Path

import jax

_SOURCE = Path(__file__).with_name("kernels.cc")
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-w")
_TARGETS = ("conv", "conv_dx", "conv_dw")
_lock = threading.Lock()


class Unavailable(Exception):
    """Why there are no kernels here, in one clause."""


def available() -> bool:
    """Whether XLA can call the kernels; the first call builds them, or warns that it can't."""
    with _lock:
        return _available()


@cache
def takes_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 on this CPU, as with AVX-512; to be asked where there are kernels."""
    return _load().flaxarch_problem(True) is None


@cache
def _available() -> bool:
    try:
        library = _load()
        for name in _TARGETS:
            symbol = f"flaxarch_{name}"
            jax.ffi.register_ffi_target(symbol, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
    except Unavailable as reason:
        warnings.warn(f"flaxarch runs without its CPU kernels: {reason}.", stacklevel=2)
        return False
    return True


@cache
def _load() -> ctypes.CDLL:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Unavailable(f"they are for Linux on x86-64, not {platform.system()} on {platform.machine()}")
    onednn = _file("onednn-cpu-gomp", "libdnnl.so.3")
    headers = _file("onednn-devel-cpu-gomp", "oneapi/dnnl/dnnl.hpp").parents[2]
    try:  # first: the kernels need it by its name alone, which will do for a library that is there already
        ctypes.CDLL(str(onednn))
    except OSError as error:
        raise Unavailable(f"oneDNN does not load ({error})") from error
    built = _cache() / f"cpu-kernels-{_key()}.so"
    try:
        library = ctypes.CDLL(str(built))
    except OSError:  # not built yet, or for another machine that shares this folder
        _compile(headers, onednn, built)
        try:
            library = ctypes.CDLL(str(built))
        except OSError as error:
            raise Unavailable(f"what was built does not load ({error})") from error
    library.flaxarch_problem.restype = ctypes.c_char_p
    library.flaxarch_problem.argtypes = [ctypes.c_bool]
    if problem := library.flaxarch_problem(False):
        raise Unavailable(f"oneDNN can't use this CPU ({problem.decode()})")
    return library


def _file(distribution: str, name: str) -> Path:
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        raise Unavailable(f"{distribution} is not installed (pip install 'flaxarch[cpu]')") from None
    for file in files:
        path = Path(str(file.locate())).resolve()
        if file.as_posix().endswith(name) and path.exists():
            return path
    raise Unavailable(f"{distribution} has no {name} (pip install --force-reinstall 'flaxarch[cpu]')")


def _cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flaxarch"
    except RuntimeError as error:
        raise Unavailable(f"there is no folder to build them in ({error})") from error


def _key() -> str:
    parts = (
        *(file.read_bytes() for file in sorted(_SOURCE.parent.glob("*.[ch]*"))),
        metadata.version("jaxlib").encode(),
        metadata.version("onednn-cpu-gomp").encode(),
        " ".join(_FLAGS).encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compile(headers: Path, onednn: Path, built: Path) -> None:
    """Writes the library as a whole or not at all, whoever else builds it at the same time."""
    compiler = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(compiler[0]) is None:
        raise Unavailable(f"there is no compiler {compiler[0]!r} (install g++, or name one in CXX)")
    try:
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent, prefix="build-") as folder:
            library = Path(folder) / built.name
            include = [f"-I{headers}", f"-I{jax.ffi.include_dir()}"]
            command = [*compiler, *_FLAGS, *include, str(_SOURCE), str(onednn), "-o", str(library)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no message"]
                first = next((line for line in lines if "error" in line), lines[0])
                raise Unavailable(f"they do not compile ({first})")
            library.replace(built)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"they can't be built ({error})") from error
