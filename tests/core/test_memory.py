"""The allocator of a process that trains: its page faults, counted by the kernel."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from paredown.core.memory import CHOSEN

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
FAULTS = """
import ctypes, resource, sys
from paredown.core.memory import keep_freed
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]

def use(size):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)

if sys.argv[1] == "keep":
    print(keep_freed())
use(64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use(48 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def outputs(word: str, **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    command = [sys.executable, "-c", FAULTS, word]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout.split()


def test_freed_memory_is_used_again_without_page_faults() -> None:
    (usual,) = outputs("as it is")
    kept, faults = outputs("keep")
    assert kept == "True"
    assert int(usual) > 5 * 10  # of huge pages at the least
    assert int(faults) < int(usual) / 10


def test_what_the_environment_chooses_stays() -> None:
    kept, faults = outputs("keep", MALLOC_MMAP_THRESHOLD_="131072")
    assert kept == "False"
    assert int(faults) > 5 * 10
