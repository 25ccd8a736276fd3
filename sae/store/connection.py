"""Read-only connections to DuckDB files, with bounded threads and memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import duckdb

MAX_PAGE = 1_000  # rows of a list that are read at once
_LARGE = 1 << 30  # bytes of a database whose queries are divided among threads
_MOST_THREADS = 4


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open a database read-only, with bounded threads and memory, and without access to any other file."""
    connection = duckdb.connect(str(path), read_only=True, config={
        "threads": _threads(path), "memory_limit": "512MB", "autoinstall_known_extensions": False,
        "autoload_known_extensions": False})
    (locked,) = connection.execute("SELECT current_setting('lock_configuration')").fetchone() or (False,)
    if locked:  # this process has the file open already, with the same settings
        return connection
    spill = Path(tempfile.gettempdir()) / f"saescope-{os.getpid()}"
    connection.execute(f"SET temp_directory = '{str(spill).replace(chr(39), chr(39) * 2)}'")
    connection.execute("SET enable_external_access = false")  # must come last: no folder can be set after it
    connection.execute("SET lock_configuration = true")
    return connection


def _threads(path: Path) -> int:
    """Return one, because pages are rendered side by side; more where each query reads millions of rows."""
    large = path.is_file() and path.stat().st_size >= _LARGE
    return min(os.cpu_count() or 1, _MOST_THREADS) if large else 1
