"""Reading dashboard files that anybody may have written: bounded in size, in numbers, in names.  No torch."""

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
_MAX_RATIO, _FREE_BYTES = 200, 32 << 20  # a gzip stream may grow so much; real ones are below 40
_READ = 1 << 20
_MAX_INT = 2**62


def refuse(path: Path, what: str) -> UserError:
    return UserError(f"source: {path.name}: {what}", "source")


def lines(path: Path, read: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a `.jsonl` or `.jsonl.gz`, one after another.

    `read(n)` is told the bytes of the file as they are read.  Raises UserError for what is no JSON,
    a line beyond `MAX_LINE`, or a stream that grows like a bomb.
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
            raise refuse(path, f"a line of more than {MAX_LINE >> 20} MiB")
    if rest.strip():
        yield _object(path, rest)


def _unpacked(path: Path, read: Callable[[int], None]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31) if path.suffix == ".gz" else None
    packed = unpacked = 0
    begun = False  # a gzip member, and it has not ended
    with open(path, "rb") as file:
        while chunk := file.read(_READ):
            packed += len(chunk)
            read(len(chunk))
            if unpacker is None:
                yield chunk
                continue
            try:
                full = True  # what comes out is cut, so there may be more of it
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
                raise refuse(path, "not gzip, or damaged") from None
    if begun:
        raise refuse(path, "the gzip stream ends too early")


def document(path: Path) -> dict[str, Any]:
    """The JSON document of a file.  Raises UserError where it is none, or beyond `MAX_FILE`."""
    if path.stat().st_size > MAX_FILE:
        raise refuse(path, f"more than {MAX_FILE >> 20} MiB")
    return _object(path, path.read_bytes())


def _object(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data, parse_constant=lambda _: None)  # NaN and Infinity are numbers nobody has
    except (ValueError, RecursionError) as error:
        raise refuse(path, f"not JSON: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise refuse(path, "a line is not a JSON object" if ".jsonl" in path.name else "not a JSON object")
    return value


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value) if math.isfinite(value) else None


def whole(value: Any) -> int | None:
    """A whole number that is not negative (as text, too: databases dump it so), or None."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    found = number(value)
    return int(found) if found is not None and 0 <= found < _MAX_INT and found == int(found) else None


def numbers(value: Any) -> list[float] | None:
    """A list of finite float32 numbers, or None.  (No NaN comes out of `_object`, and infinity is out of bounds.)"""
    if not isinstance(value, list) or not set(map(type, value)) <= {int, float}:
        return None
    return value if not value or (min(value) > -3e38 and max(value) < 3e38) else None


def texts(value: Any, most: int = 4096) -> list[str] | None:
    """A list of strings, none beyond `most` characters, or None."""
    if not isinstance(value, list) or not set(map(type, value)) <= {str}:
        return None
    return value if max(map(len, value), default=0) <= most else None


def text(value: Any, most: int = 500) -> str:
    """A short text for a page, or an empty one."""
    return value[:most] if isinstance(value, str) else ""
