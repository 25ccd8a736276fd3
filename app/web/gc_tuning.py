"""Settings of Python's garbage collector for serving pages."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rare_collections() -> Iterator[None]:
    """Make garbage collections rare.

    A page makes thousands of objects that are freed with it.  The permanent objects are imported by now, and scanning
    them again and again is a waste.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.unfreeze()  # otherwise DuckDB's binding reports leaked objects when the process ends
        gc.set_threshold(*before)
