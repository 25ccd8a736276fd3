"""Freed memory is available to the next allocation without going through the system, and threads share arenas."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from sae.kernels.malloc import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def use():
    for _ in range(10):
        torch.ones(3_000_000)  # 12 MB, gone at once
        torch.ones(12_000_000)

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

ARENAS = """
import ctypes, sys, threading
from sae.kernels.malloc import share_arenas

if sys.argv[1] == "share":
    share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
together = threading.Barrier(8)

def use():
    together.wait()
    libc.malloc(ctypes.c_size_t(100_000))
    together.wait()

threads = [threading.Thread(target=use) for _ in range(8)]
for one in threads:
    one.start()
for one in threads:
    one.join()
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@glibc
def test_threads_share_two_arenas() -> None:
    def arenas(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", ARENAS, mode], capture_output=True, check=True)
        return done.stdout.count(b"<heap ")

    assert arenas("share") <= 2 < arenas("each its own")


@glibc
def test_freed_memory_is_used_again() -> None:
    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, check=True).stdout)

    assert faults("keep") < faults("free") / 10
