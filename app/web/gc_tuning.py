"""Python's garbage collector set up for serving pages."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rare_collections() -> Iterator[None]:
    """A page makes thousands of objects that die with it; what lives on is imported by now, and need not be looked
    through again and again."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.unfreeze()  # or DuckDB's binding reports what was never collected when the process ends
        gc.set_threshold(*before)
