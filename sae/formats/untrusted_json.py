"""Readers for untrusted dashboard files, with bounds on sizes, numbers and texts.  No torch."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sae.errors import UserError

MAX_LINE = 16 << 20  # bytes of one JSON line
MAX_FILE = 1 << 30  # bytes of one JSON document
_MAX_RATIO, _FREE_BYTES = 200, 32 << 20  # largest growth of a gzip stream; real ratios are below 40
_READ = 1 << 20
_MAX_INT = 2**62


def refuse(path: Path, reason: str) -> UserError:
    """Return the error for a file that cannot be used."""
    return UserError(f"source: {path.name}: {reason}", "source")


def lines(path: Path, read: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a `.jsonl` or `.jsonl.gz` file.

    `read(n)` is called with the number of bytes of the file as they are read.  Raises UserError for invalid
    JSON, for a line longer than `MAX_LINE`, and for a gzip stream that unpacks to too much.
    """
    rest = b""
    for chunk in _unpacked(path, read):
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            for line in (rest + head).split(b"\n"):
                if line.strip():
                    yield _object(path, line)
            rest = tail
        else:
            rest += chunk
        if len(rest) > MAX_LINE:
            raise refuse(path, f"a line is longer than {MAX_LINE >> 20} MiB")
    if rest.strip():
        yield _object(path, rest)


def _unpacked(path: Path, read: Callable[[int], None]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31) if path.suffix == ".gz" else None
    packed = unpacked = 0
    begun = False  # inside a gzip member that has not ended
    with open(path, "rb") as file:
        while chunk := file.read(_READ):
            packed += len(chunk)
            read(len(chunk))
            if unpacker is None:
                yield chunk
                continue
            try:
                full = True  # the output was limited, so there may be more
                while chunk or full:
                    begun = begun or bool(chunk)
                    data = unpacker.decompress(chunk, _READ)
                    full = len(data) == _READ
                    unpacked += len(data)
                    if unpacked > _FREE_BYTES + _MAX_RATIO * packed:
                        raise refuse(path, "it unpacks to more than any real export does")
                    if data:
                        yield data
                    chunk = unpacker.unconsumed_tail
                    if unpacker.eof:
                        chunk, begun = unpacker.unused_data, False
                        unpacker = zlib.decompressobj(wbits=31)
            except zlib.error:
                raise refuse(path, "it is not gzip, or it is damaged") from None
    if begun:
        raise refuse(path, "the gzip stream ends too early")


def document(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.  Raises UserError for invalid JSON and above `MAX_FILE` bytes."""
    if path.stat().st_size > MAX_FILE:
        raise refuse(path, f"it is larger than {MAX_FILE >> 20} MiB")
    return _object(path, path.read_bytes())


def _object(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data, parse_constant=lambda _: None)  # NaN and Infinity become None
    except (ValueError, RecursionError) as error:
        raise refuse(path, f"it is not JSON: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise refuse(path, "a line is not a JSON object" if ".jsonl" in path.name else "it is not a JSON object")
    return value


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value) if math.isfinite(value) else None


def whole(value: Any) -> int | None:
    """Return a non-negative integer, or None.  Digits in a string count, because databases export them so."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    found = number(value)
    return int(found) if found is not None and 0 <= found < _MAX_INT and found == int(found) else None


def numbers(value: Any) -> list[float] | None:
    """Return a list of finite float32 numbers, or None.  `_object` yields no NaN, and infinity is out of bounds."""
    if not isinstance(value, list) or not set(map(type, value)) <= {int, float}:
        return None
    return value if not value or (min(value) > -3e38 and max(value) < 3e38) else None


def texts(value: Any, most: int = 4096) -> list[str] | None:
    """Return a list of strings of at most `most` characters each, or None."""
    if not isinstance(value, list) or not set(map(type, value)) <= {str}:
        return None
    return value if max(map(len, value), default=0) <= most else None


def text(value: Any, most: int = 500) -> str:
    """Return a text cut to `most` characters, or "" for anything else."""
    return value[:most] if isinstance(value, str) else ""
