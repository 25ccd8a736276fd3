"""Files of rows: JSON lines, JSON, CSV, Parquet and Arrow, also compressed with gzip or zstd.  No torch.

`kind_of` tells from a file's name how it is read, and `rows_of` yields its rows with their places in the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae.errors import UserError

Row = tuple[str, dict[str, Any]]  # (place in the file, such as `line 3`; the row)

_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
          ".pq": "parquet", ".arrow": "arrow"}
COMPRESSED = frozenset({".gz", ".zst"})
# Files that tools write next to rows: they describe the rows and hold none.
_COMPANIONS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_SPLITS = {"train": "train", "training": "train", "test": "test", "validation": "validation", "valid": "validation",
           "val": "validation", "dev": "validation", "eval": "test"}
_SPLIT = re.compile(r"(?:^|/)(" + "|".join(_SPLITS) + r")(?=[-_./])", re.IGNORECASE)
_BATCH_ROWS = 4096
_CSV_CELL = 1 << 27  # the longest cell of a CSV file, in characters
_READ_BYTES = 1 << 24


def kind_of(path: Path) -> str:
    """Return "jsonl", "json", "csv", "parquet" or "arrow" from a file's name, or "" for a file without rows."""
    name = Path(path.name.lower())
    compressed = name.suffix in COMPRESSED
    kind = _KINDS.get(Path(name.stem).suffix if compressed else name.suffix, "")
    return "" if compressed and kind in ("parquet", "arrow") else kind


def is_companion(path: Path) -> bool:
    """Return whether a file only describes the rows of other files."""
    return path.name.lower() in _COMPANIONS


def split_of(name: str) -> str:
    """Return the split that a file's path below its folder names, or ""."""
    match = _SPLIT.search(name)
    return _SPLITS[match[1].lower()] if match else ""


def open_text(path: Path) -> io.TextIOWrapper:
    """Open a text file, decompressed if its name says so.  Line ends are kept."""
    if path.suffix.lower() == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    if path.suffix.lower() == ".zst":
        import pyarrow

        stream = pyarrow.input_stream(str(path), compression="zstd", buffer_size=_READ_BYTES)
        return io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def count_rows(path: Path) -> int:
    """Return the number of rows of a file, or 0 if counting them means reading all of it as rows."""
    kind = kind_of(path)
    if kind == "parquet":
        return int(_open_parquet(path).metadata.num_rows)
    return count_bytes(path, b"\n") if kind == "jsonl" and path.suffix.lower() not in COMPRESSED else 0


def count_bytes(path: Path, needle: bytes) -> int:
    """Count `needle` in the file, possibly missing one that is split between two reads."""
    with open(path, "rb") as file:
        return sum(chunk.count(needle) for chunk in iter(lambda: file.read(_READ_BYTES), b""))


def check(path: Path, column: str) -> None:
    """Raise UserError at once if a Parquet or Arrow file is damaged or lacks the column."""
    if kind_of(path) == "parquet":
        _demand(path.name, column, _open_parquet(path).schema_arrow.names)
    elif kind_of(path) == "arrow":
        _demand(path.name, column, _open_arrow(path)[0].names)


def rows_of(path: Path, column: str) -> Iterator[Row]:
    """Yield the rows of a file in order; blank lines give empty rows.

    Only `column` is read from Parquet and Arrow.  Raises UserError (field `text`) for a file that does not hold
    rows, and (field `text_column`) for one without the column.
    """
    read = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet, "arrow": _arrow}[kind_of(path)]
    at = ""
    try:
        for at, row in read(path, column):
            if row and column not in row:
                raise no_column(f"{path.name}, {at},", column, [str(key) for key in row])
            yield at, row
    except UserError:
        raise
    except json.JSONDecodeError as error:
        raise UserError(f"text: {path.name}, after {at or 'its start'}, is not JSON: {error.msg}", "text") from None
    except UnicodeDecodeError as error:
        raise UserError(f"text: {path} is not UTF-8 text ({error.reason})", "text") from None
    except (OSError, EOFError, csv.Error, ValueError) as error:  # pyarrow's errors are OSErrors and ValueErrors
        raise UserError(f"text: {path} could not be read after {at or 'its start'}: {_line(error)}", "text") from None


def no_column(name: str, column: str, columns: list[str]) -> UserError:
    """Return the error for rows without the column, which lists the columns that there are."""
    there = ", ".join(repr(c) for c in columns) or "none"
    return UserError(f"text_column: {name} has no column {column!r}; there are: {there}", "text_column")


def _demand(name: str, column: str, columns: list[str]) -> None:
    if column not in columns:
        raise no_column(name, column, list(columns))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---- text formats


def _jsonl(path: Path, column: str) -> Iterator[Row]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                yield f"line {number}", {}
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"text: {path.name}, line {number}, is not JSON: {error.msg}", "text") from None
            if not isinstance(row, dict):
                raise UserError(f"text: {path.name}, line {number}, is not a JSON object", "text")
            yield f"line {number}", row


def _json(path: Path, column: str) -> Iterator[Row]:
    """Yield the objects of a JSON list, of the only list in an object, or of JSON lines."""
    with open_text(path) as file:
        first = next((line for line in file if line.strip()), "")
        second = next((line for line in file if line.strip()), "")
    try:
        lines = isinstance(json.loads(first), dict) and (not second or isinstance(json.loads(second), dict))
    except ValueError:
        lines = False
    if lines and (second or column in json.loads(first)):
        yield from _jsonl(path, column)
        return
    with open_text(path) as file:
        value = json.load(file)
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise UserError(f"text: {path.name} is not a list of JSON objects, one for each document; give JSON lines, or "
                        "a list of objects", "text")
    yield from ((f"row {number}", row) for number, row in enumerate(value))


def _csv(path: Path, column: str) -> Iterator[Row]:
    tab = ".tsv" in [suffix.lower() for suffix in path.suffixes]
    csv.field_size_limit(_CSV_CELL)
    with open_text(path) as file:
        reader = csv.DictReader(file, delimiter="\t" if tab else ",", strict=True)
        _demand(path.name, column, [str(name) for name in reader.fieldnames or []])
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"text: {path.name}, line {reader.line_num}, has another number of cells than the "
                                "first line has names", "text")
            yield f"line {reader.line_num}", dict(row)


# ---- columnar formats


def _open_parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"text: {path} is not a Parquet file that can be read: {_line(error)}", "text") from None


def _parquet(path: Path, column: str) -> Iterator[Row]:
    table = _open_parquet(path)
    _demand(path.name, column, table.schema_arrow.names)
    number = 0
    for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=[column]):
        for value in batch.column(0).to_pylist():
            yield f"row {number}", {column: value}
            number += 1


def _open_arrow(path: Path) -> tuple[Any, Iterator[Any]]:
    """Return the schema and the record batches of an Arrow stream, as `datasets` saves it, or of an Arrow file."""
    import pyarrow

    try:
        source = pyarrow.memory_map(str(path))
        try:
            stream = pyarrow.ipc.open_stream(source)
            return stream.schema, iter(stream)
        except pyarrow.ArrowInvalid:
            file = pyarrow.ipc.open_file(source)
            return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"text: {path} is not an Arrow file that can be read: {_line(error)}", "text") from None


def _arrow(path: Path, column: str) -> Iterator[Row]:
    schema, batches = _open_arrow(path)
    _demand(path.name, column, schema.names)
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for value in batch.column(schema.names.index(column)).slice(start, _BATCH_ROWS).to_pylist():
                yield f"row {number}", {column: value}
                number += 1
