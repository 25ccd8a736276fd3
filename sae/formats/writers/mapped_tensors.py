"""Safetensors files without torch: mapped for reading, streamed for writing.

The format has three parts: eight bytes with the header's length (little-endian), the header as JSON
(name to dtype, shape and byte range), and the tensors end to end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sae.errors import UserError

_CHUNK_BYTES = 32 << 20
_MAX_HEADER_BYTES = 100_000_000  # the library's own limit


def mapped(path: Path) -> dict[str, np.ndarray]:
    """Return every tensor of a float32 safetensors file, memory-mapped, so that only accessed parts are read.

    Raises UserError (field `sae`) if the file is missing, damaged or of another dtype.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes, but the file has {size}")
            header = json.loads(file.read(length))
        return {name: _view(path, entry, 8 + length, size) for name, entry in header.items() if name != "__metadata__"}
    except FileNotFoundError:
        raise UserError(f"sae: there are no weights at {path}", "sae") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"sae: {path} cannot be read: {error}", "sae") from None


def _view(path: Path, entry: Mapping[str, Any], base: int, size: int) -> np.ndarray:
    shape = tuple(map(int, entry["shape"]))
    start, end = map(int, entry["data_offsets"])
    if entry["dtype"] != "F32" or end - start != 4 * int(np.prod(shape, dtype=object)) or not 0 <= start <= end <= (
            size - base):
        raise ValueError("a tensor is not float32, or is outside the file")
    if start == end:
        return np.zeros(shape, "<f4")
    tensor: np.ndarray = np.memmap(path, dtype=np.dtype("<f4"), mode="r", offset=base + start, shape=shape)
    return tensor


def stream(tensors: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """Yield a safetensors file of float32 tensors in pieces.  A tensor may be a view, such as a transposed map."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * tensor.size
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data must begin at a multiple of 8
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        yield from raw(tensor)


def raw(tensor: np.ndarray) -> Iterator[bytes]:
    """Yield the entries in row-major order as little-endian float32, in pieces."""
    rows = np.atleast_1d(tensor)
    step = max(1, _CHUNK_BYTES // max(1, 4 * rows[:1].size))
    for start in range(0, len(rows), step):
        yield np.ascontiguousarray(rows[start : start + step], "<f4").tobytes()
