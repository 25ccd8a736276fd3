"""Memory that is used again and again, on a CPU.

The C library gives large blocks back to the system as soon as they are free, and the system clears every page
when it hands one out anew: several percent of the time of a program whose tensors live for one operation each.
"""

from __future__ import annotations

import ctypes
import functools

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's mallopt
_MOST = (1 << 31) - 1
_PAD = 1 << 28  # fetched at once


def trim_malloc() -> None:
    """Give the system what is kept and not used at this moment."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@functools.cache
def keep_freed_memory() -> None:
    """From now on this process keeps what it frees, for its next allocations, until it is told to `trim_malloc`.

    Nothing happens where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)
        mallopt(_TOP_PAD, _PAD)
