"""The compiled kernel (`kernel.cpp`): made on first use where there is a C++ compiler, and kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from paredown.cost.latency import device_name

SOURCE = Path(__file__).with_name("kernel.cpp")
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-w")
THREADED = (("-fopenmp",), ())  # tried in turn: Apple's compiler has no OpenMP
FUNCTIONS = {torch.float32: "convolve_float", torch.float64: "convolve_double"}
NUMBERS = 15
log = logging.getLogger("paredown")


class CompileError(RuntimeError):
    """There is no compiler here, or it does not take the kernel."""


@cache
def available() -> bool:
    """Whether the kernel runs here; compiles it where that has not been done. Where it does not, the log says why."""
    try:
        _library()
    except (CompileError, OSError) as error:
        log.warning("the native kernel is left out, library operators run instead: %s", error)
        return False
    return True


def convolve(
    tensors: tuple[Tensor | None, ...], shape: tuple[int, ...], low: float, high: float, dtype: torch.dtype
) -> None:
    """Run the kernel on input, weights, bias, residual or None, output, chunks, entries and order, all contiguous, with
    the numbers of its `Shape`. Nothing is checked: `sparse_conv.SparseConv2d` makes them."""
    chunks = tensors[5]
    assert chunks is not None and len(shape) == NUMBERS
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    numbers = (ctypes.c_int64 * NUMBERS)(*shape)
    function = getattr(_library(), FUNCTIONS[dtype])
    function(*pointers[:6], len(chunks), *pointers[6:], numbers, low, high, torch.get_num_threads())


@cache
def _library() -> Any:
    library = ctypes.CDLL(str(_compiled()))
    pointer, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    for name in FUNCTIONS.values():
        function = getattr(library, name)
        function.argtypes = [*[pointer] * 6, number, *[pointer] * 3, real, real, number]
        function.restype = None
    return library


def _compiled() -> Path:
    """The shared library of this source, compiler and processor; one process compiles it, the others wait."""
    compiler = _compiler()
    version = _run([compiler, "--version"]).splitlines()[0]
    machine = (platform.machine(), device_name(torch.device("cpu")), _features())
    made_of = "\n".join([SOURCE.read_text(), version, *FLAGS, *machine])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paredown"
    library = folder / f"kernel-{hashlib.sha256(made_of.encode()).hexdigest()[:20]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{library}.lock"):
            if not library.exists():
                _compile(compiler, library)
    return library


def _compiler() -> str:
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        if found := shutil.which(name):
            return found
    raise CompileError(f"no C++ compiler ({named or ', '.join(COMPILERS)}) is installed")


def _compile(compiler: str, library: Path) -> None:
    temporary = library.with_suffix(f".{os.getpid()}")
    for index, extra in enumerate(THREADED):
        try:
            _run([compiler, *FLAGS, *extra, str(SOURCE), "-o", str(temporary)])
            break
        except CompileError:
            if index + 1 == len(THREADED):
                raise
    temporary.replace(library)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CompileError(f"{command[0]} fails: {said[0]}")
    return done.stdout or "unknown version\n"


def _features() -> str:
    """What the processor can do, where Linux tells: a cache may be shared by machines of one name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
