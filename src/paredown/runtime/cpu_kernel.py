"""The compiled kernel (`kernel.cpp`), built on first use where there is a C++ compiler and cached per user."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from paredown.core.private import NotPrivate, check_private, private_folder
from paredown.cost.latency import device_name

SOURCE = Path(__file__).with_name("kernel.cpp")
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-w")
OPENMP_FLAGS = (("-fopenmp",), ())  # tried in turn: Apple's compiler has no OpenMP
TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16"}
FUNCTIONS = {dtype: f"convolve_{name}" for dtype, name in TYPES.items()}
PIXEL_FUNCTIONS = {dtype: f"convolve_pixels_{name}" for dtype, name in TYPES.items()}
SHAPE_FIELDS = 15  # of `Shape` in kernel.cpp
log = logging.getLogger("paredown")


class CompileError(RuntimeError):
    """No compiler is installed, or it rejects the kernel."""


@cache
def available() -> bool:
    """Return whether the kernel runs on this machine, compiling it if necessary. The log says why it does not."""
    try:
        _library()
    except (CompileError, OSError) as error:
        log.warning("no native kernel, library operators run instead: %s", error)
        return False
    return True


@cache
def block_size() -> int:
    """Return how many images a block holds: as many as a register has values of fp32."""
    return int(_library().images_in_a_block())


def convolve(
    tensors: tuple[Tensor | None, ...], shape: tuple[int, ...], low: float, high: float, function: str
) -> None:
    """Run the kernel on input, weights, bias, residual or None, output, chunks, entries and order, all contiguous, with
    the fields of its `Shape`. Nothing is checked here: `blocked_layers.SparseConv2d` and `pixel_layers.PixelConv2d`
    prepare the arguments. Raise RuntimeError, as torch, where there is too little memory for the buffers."""
    chunks = tensors[5]
    assert chunks is not None
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    count, threads = len(chunks), torch.get_num_threads()
    if not getattr(_library(), function)(*pointers[:6], count, *pointers[6:], _fields(shape), low, high, threads):
        raise RuntimeError(f"{function}: too little memory for its buffers")


@lru_cache(maxsize=1024)
def _fields(shape: tuple[int, ...]) -> Any:
    assert len(shape) == SHAPE_FIELDS
    return (ctypes.c_int64 * SHAPE_FIELDS)(*shape)


@cache
def _library() -> Any:
    library = ctypes.CDLL(str(_compiled()))
    pointer, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    for name in (*FUNCTIONS.values(), *PIXEL_FUNCTIONS.values()):
        function = getattr(library, name)
        function.argtypes = [*[pointer] * 6, number, *[pointer] * 3, real, real, number]
        function.restype = ctypes.c_bool
    library.images_in_a_block.restype = number
    return library


def _compiled() -> Path:
    """Return the shared library of this source, compiler and processor. One process compiles it, others wait.

    A library that somebody else may have written is not used: this process compiles one of its own.
    """
    compiler = _compiler()
    version = _run([compiler, "--version"]).splitlines()[0]
    identity = "\n".join([SOURCE.read_text(), version, *FLAGS, *_processor()])
    name = f"kernel-{hashlib.sha256(identity.encode()).hexdigest()[:20]}.so"
    try:
        library = private_folder() / name
        if not os.path.lexists(library):
            with FileLock(f"{library}.lock"):
                if not os.path.lexists(library):
                    _compile(compiler, library)
        check_private(library)
    except (NotPrivate, OSError) as error:
        log.warning("%s: the native kernel is compiled for this process alone", error)
        library = _own_folder() / name
        _compile(compiler, library)
    return library


def _own_folder() -> Path:
    """Create a folder that only this user can read, deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="paredown-kernel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _compiler() -> str:
    requested = os.environ.get("CXX")
    for name in (requested,) if requested else COMPILERS:
        if found := shutil.which(name):
            return found
    raise CompileError(f"no C++ compiler ({requested or ', '.join(COMPILERS)}) is installed")


def _compile(compiler: str, library: Path) -> None:
    temporary = library.with_suffix(f".{os.getpid()}")
    try:
        for index, extra in enumerate(OPENMP_FLAGS):
            try:
                _run([compiler, *FLAGS, *extra, str(SOURCE), "-o", str(temporary)])
                break
            except CompileError:
                if index + 1 == len(OPENMP_FLAGS):
                    raise
        temporary.chmod(0o700)  # whatever the umask: see `check_private`
        temporary.replace(library)
    finally:
        temporary.unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        lines = completed.stderr.strip().splitlines() or [f"exit code {completed.returncode}"]
        raise CompileError(f"{command[0]} fails: {lines[0]}")
    return completed.stdout or "unknown version\n"


def _processor() -> list[str]:
    # the instruction sets too: machines of one model name may share a cache and differ in what a hypervisor exposes
    flags = sorted(name for name, value in torch.cpu.get_capabilities().items() if value is True)
    return [platform.machine(), device_name(torch.device("cpu")), *flags]
