"""Reuse of freed memory on a CPU.

The C library returns large blocks to the system as soon as they are freed, and the system clears every page before it
hands one out again.  In a program whose tensors live for one operation each, this takes several percent of the time.
"""

from __future__ import annotations

import ctypes
import functools

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's mallopt
_MOST = (1 << 31) - 1
_PAD = 1 << 28  # bytes requested from the system at once


def trim_malloc() -> None:
    """Return memory that is kept but unused at this moment to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@functools.cache
def keep_freed_memory() -> None:
    """Keep all memory that this process frees from now on for its next allocations, until `trim_malloc` is called.

    Does nothing if the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)
        mallopt(_TOP_PAD, _PAD)
