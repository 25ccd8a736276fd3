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
from sae.kernels.malloc import keep_little_memory

if sys.argv[1] == "share":
    keep_little_memory()
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

LARGE = """
import ctypes, sys
from sae.kernels.malloc import keep_little_memory

if sys.argv[1] == "return":
    keep_little_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.mallinfo.restype = type("Info", (ctypes.Structure,), {"_fields_": [(str(i), ctypes.c_int) for i in range(10)]})

def mapped():
    return getattr(libc.mallinfo(), "3")  # the number of blocks that come from the system

libc.free(libc.malloc(ctypes.c_size_t(4_000_000)))
before = mapped()
libc.malloc(ctypes.c_size_t(1_000_000))
print(mapped() - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@glibc
def test_threads_share_two_arenas() -> None:
    def arenas(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", ARENAS, mode], capture_output=True, check=True)
        return done.stdout.count(b"<heap ")

    assert arenas("share") <= 2 < arenas("each its own")


@glibc
def test_large_blocks_of_a_server_come_from_the_system() -> None:
    def mapped(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", LARGE, mode], capture_output=True, check=True).stdout)

    assert mapped("return") == 1
    assert mapped("keep") == 0


@glibc
def test_freed_memory_is_used_again() -> None:
    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, check=True).stdout)

    assert faults("keep") < faults("free") / 10
