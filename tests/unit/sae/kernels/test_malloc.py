"""Freed memory is available to the next allocation without going through the system."""

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again() -> None:
    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, check=True).stdout)

    assert faults("keep") < faults("free") / 10
