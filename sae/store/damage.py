"""Damage of build files: found by size when a build is opened, and by DuckDB's own checksums when it is read.

DuckDB keeps a checksum with each block of 256 KiB and checks it when it reads the block.  So the size is all that has
to be checked in advance.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from sae.errors import DamagedFile

_HEADER = 4096  # bytes of each of the three headers: the file's, and two of the database, of which the newer counts
_MAGIC = b"DUCK"
_FAULTS = (duckdb.IOException, duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)


def expected_bytes(path: Path) -> int | None:
    """Return the size that the headers of a DuckDB file state, or None if it is not a DuckDB file."""
    with open(path, "rb") as file:
        head = file.read(3 * _HEADER)
    if len(head) < 3 * _HEADER or head[8:12] != _MAGIC:
        return None
    # Each database header: checksum, iteration, meta block, free list, number of blocks, size of a block.
    headers = [struct.unpack_from("<QQqqQQ", head, start) for start in (_HEADER, 2 * _HEADER)]
    _, _, _, _, n_blocks, block_bytes = max(headers, key=lambda header: header[1])
    return int(3 * _HEADER + n_blocks * block_bytes)


def check_build_size(path: Path) -> None:
    """Raise DamagedFile (field `build`) if the file is empty or shorter than its headers say."""
    try:
        size, expected = path.stat().st_size, expected_bytes(path)
    except OSError as error:
        raise damaged_build(path, f"it cannot be opened ({error.strerror})") from None
    if expected is None:
        raise damaged_build(path, "it is not a DuckDB file")
    if size < expected:
        raise damaged_build(path, f"it has {size:,} of its {expected:,} bytes")


def damaged_build(path: Path, reason: str) -> DamagedFile:
    """Return the error for a damaged build, with the command that makes it again."""
    sae_id = f"{path.parent.parent.name}/{path.parent.name}"
    return DamagedFile(
        f"build: {path.name} is damaged: {reason}. Build it again with: saescope index --sae {sae_id}", path, "build")


def file_mark(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with every write to a file (its number, size and time of change), or None without a file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what DuckDB raises for a damaged block into DamagedFile (field `build`)."""
    try:
        yield
    except duckdb.Error as error:
        if type(error) is duckdb.Error or isinstance(error, _FAULTS):  # a wrong checksum has no class of its own
            reason = str(error).strip().splitlines()[0].replace(f"{path.parent}/", "")
            raise damaged_build(path, reason) from None
        raise
