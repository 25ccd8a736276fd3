"""Arrow columns and tables made of numpy arrays and Python lists without pandas.

`pyarrow.array` and `to_numpy` import pandas at their first call if it is installed, which takes a fiftieth of a small
build.  The functions here give the same columns from the memory of the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa


def arrow_table(columns: Mapping[str, Any]) -> pa.Table:
    """Return a table of columns, each of them a numpy array, a list (`arrow_column`) or an Arrow column."""
    return pa.Table.from_arrays([values if isinstance(values, pa.Array | pa.ChunkedArray) else arrow_column(values)
                                 for values in columns.values()], list(columns))


def arrow_column(values: np.ndarray | Sequence[Any], valid_N: np.ndarray | None = None) -> pa.Array:
    """Return a column of numbers, truth values, texts or bytes.  None in a list is null, and so is what is not valid.

    A list of texts or bytes becomes strings or binaries, another list the type that numpy gives it.
    """
    if isinstance(values, np.ndarray):
        return _numbers(values, valid_N)
    valid_N = np.array([value is not None for value in values], dtype=np.bool_)
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str} or kinds <= {bytes}:
        return _strings(values, valid_N, pa.binary() if kinds == {bytes} else pa.string())
    return _numbers(np.array([0 if value is None else value for value in values]), valid_N)


def floats(values: np.ndarray) -> pa.Array:
    """Return a column of floats in which NaN is null."""
    return _numbers(values, ~np.isnan(values))


def list_column(offsets: pa.Array, values: np.ndarray | pa.Array) -> pa.ListArray:
    """Return a column of lists, the parts of `values` between the offsets."""
    return pa.ListArray.from_arrays(offsets, values if isinstance(values, pa.Array) else arrow_column(values))


def list_offsets(values: np.ndarray) -> pa.Array:
    """Return the offsets of a list column."""
    return _numbers(values.astype(np.int32, copy=False), None)


def numpy_of(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return the numbers of a column as an array, which shares its memory.  Null is NaN, in float64."""
    values = whole(values)
    valid, data = values.buffers()
    if data is None:
        return np.empty(0, values.type.to_pandas_dtype())
    end = values.offset + len(values)
    numbers: np.ndarray = np.frombuffer(data, values.type.to_pandas_dtype(), end)[values.offset :]
    if values.null_count == 0:
        return numbers
    valid_N = np.unpackbits(np.frombuffer(valid, np.uint8), count=end, bitorder="little")[values.offset :]
    return np.where(valid_N, numbers, np.nan)


def whole(values: pa.ChunkedArray | pa.Array) -> Any:
    """Return a column as one array."""
    if isinstance(values, pa.Array):
        return values
    return values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(
        values.chunks or [pa.nulls(0, values.type)])


def _numbers(values: np.ndarray, valid_N: np.ndarray | None) -> pa.Array:
    kind = pa.from_numpy_dtype(values.dtype)
    data = np.packbits(values, bitorder="little") if values.dtype == np.bool_ else np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, len(values), [_validity(valid_N), pa.py_buffer(data)])


def _strings(values: Sequence[str | bytes | None], valid_N: np.ndarray, kind: pa.DataType) -> pa.Array:
    parts = [b"" if value is None else value.encode() if isinstance(value, str) else value for value in values]
    ends = np.cumsum([0, *map(len, parts)]).astype(np.int32)
    return pa.Array.from_buffers(kind, len(parts), [
        _validity(valid_N), pa.py_buffer(ends), pa.py_buffer(b"".join(parts))])


def _validity(valid_N: np.ndarray | None) -> pa.Buffer | None:
    return None if valid_N is None or valid_N.all() else pa.py_buffer(np.packbits(valid_N, bitorder="little"))
