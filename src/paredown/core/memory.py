"""The allocator of a process that trains or times: freed memory stays with the process, so that the next step need not
fault its pages in again."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
NEVER = -1  # as the threshold for trimming: nothing is given back
LARGEST = (2**30, 2**25)  # bytes taken from the heap, not by mmap: older glibc takes half a heap of 64 MiB at most
CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")  # by whoever started the process


@cache
def keep_freed() -> bool:
    """Let glibc's malloc keep what is freed, where the environment does not choose otherwise. Return whether it does.

    A training step allocates and frees every activation. By default glibc maps each of them anew, and the kernel fills
    every page with zeros again.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in CHOSEN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
