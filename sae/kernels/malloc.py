"""Settings of the C library's memory (glibc's; elsewhere they do nothing).

It returns large blocks to the system as soon as they are freed, and the system clears every page before it hands one
out again.  In a program whose tensors live for one operation each, this takes several percent of the time.

It gives threads arenas of their own, up to eight for each core, and each arena keeps what its threads have freed.  Once
a block of up to 32 MB was freed, further blocks of its size come from these arenas, too.
"""

from __future__ import annotations

import ctypes
import functools

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # of glibc's mallopt
_ARENAS = 2
_LARGE = 1 << 17  # bytes of a block that a server returns to the system
_MOST = (1 << 31) - 1
_PAD = 1 << 28  # bytes requested from the system at once


def trim_malloc() -> None:
    """Return memory that is kept but unused at this moment to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@functools.cache
def keep_freed_memory() -> None:
    """Keep all memory that this process frees from now on for its next allocations, until `trim_malloc` is called."""
    _mallopt({_MMAP_THRESHOLD: _MOST, _TRIM_THRESHOLD: _MOST, _TOP_PAD: _PAD})


def keep_little_memory() -> None:
    """Let all threads that this process starts from now on share two arenas, and return large blocks at once.

    A server has dozens of threads, which wait for each other in Python's lock anyway.  Its large blocks are pages,
    which are soon gone; between them lie objects that stay, so that an arena would grow for minutes under load.
    """
    _mallopt({_ARENA_MAX: _ARENAS, _MMAP_THRESHOLD: _LARGE})


def _mallopt(settings: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in settings.items():
            mallopt(name, value)
