"""Sources of text: named documents, one after another.  No torch.

A text is named by one string: `stdlib`, a text file, a directory, a JSONL or Parquet file, or a Hugging Face data set
(`owner/name`, or `owner/name:config`).  `find_text` decides which it is without reading it; `TextSource.documents`
then reads it in a fixed order.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae.errors import UserError
from sae.lm.model_info import hub_message, hub_reachable
from sae.workspace.paths import typed_path

STDLIB = "stdlib"
SEPARATOR = "<|endoftext|>"
# Limits of source text worth reading: no stubs, no tables of data, no minified lines.
MIN_CHARACTERS, MAX_CHARACTERS, MAX_LINE = 200, 300_000, 400
_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_TABLES = frozenset({"encodings", "pydoc_data"})  # of the standard library: a sixth of its tokens, hardly any code
_JSONL = frozenset({".jsonl", ".ndjson"})
_PARQUET = frozenset({".parquet", ".pq"})
_READ_BYTES = 1 << 24


@dataclass(frozen=True)
class Document:
    """One document.  The text is empty if the document was skipped."""

    name: str
    text: str


@dataclass(frozen=True)
class TextSource:
    """A text that can be read.

    `fingerprint` changes when the text may have changed (names, sizes and times of its files). `count` returns how
    many documents `documents` yields, or 0 if that is unknown in advance; it may read the text once. `endless` marks a
    source that is too large to read to its end.
    """

    name: str
    kind: str
    fingerprint: str
    documents: Callable[[], Iterator[Document]]
    count: Callable[[], int]
    endless: bool = False


def find_text(text: str, column: str = "text", split: str = "train") -> TextSource:
    """Resolve `text` to a source.  Raises UserError (field `text`) if there is no such source."""
    if text == STDLIB:
        root = Path(sysconfig.get_path("stdlib"))
        files = [file for file in python_files(root) if file.relative_to(root).parts[0] not in _TABLES]
        return _of_files(text, "stdlib", files, root, functools.partial(source_documents, root, files))
    path = typed_path(text, "text")
    if path.is_dir():
        files = _files_below(path)
        return _of_files(text, "directory", files, path, functools.partial(_directory_documents, path, files))
    if path.is_file():
        return _file_source(text, path, column)
    if path.exists() or text.startswith(("/", ".", "~")) or text.count("/") > 1 or " " in text or path.suffix in (
            _JSONL | _PARQUET | {".txt", ".md", ".json", ".csv"}):
        raise UserError(f"text: {text} is not a file or directory that can be read here", "text")
    key = f"{text}|{column}|{split}"
    return TextSource(
        text, "dataset", _digest(key), functools.partial(_dataset_documents, text, column, split), lambda: 0, True)


# ---- Python source


def python_files(root: Path) -> list[Path]:
    """Return the .py files below `root` in sorted order, without tests, caches and installed packages."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        found += [Path(folder) / name for name in names if name.endswith(".py")]
    return sorted(found)


def source_documents(root: Path, files: list[Path]) -> Iterator[Document]:
    """Yield the files as documents in order, named by their path below `root`.

    A file becomes an empty document if it is too short or too long, has a very long line (data, not prose or code), is
    not UTF-8, or repeats an earlier file exactly.
    """
    seen: set[bytes] = set()
    for file in files:
        text = _read_utf8(file) or ""
        digest = hashlib.sha1(text.encode()).digest()
        if digest in seen or not is_source_text(text):
            text = ""
        seen.add(digest)
        yield Document(_name_below(root, file), text)


def _name_below(root: Path, file: Path) -> str:
    """Return the file's path below `root`; bytes of the name that are not UTF-8 become replacement characters."""
    return os.fsencode(file.relative_to(root).as_posix()).decode("utf-8", errors="replace")


def is_source_text(text: str) -> bool:
    """Return whether a source file is long enough, short enough, and free of very long lines."""
    return MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS and max(map(len, text.split("\n"))) <= MAX_LINE


# ---- files and directories


def _of_files(
    name: str, kind: str, files: list[Path], root: Path, documents: Callable[[], Iterator[Document]]
) -> TextSource:
    if not files:
        raise UserError(f"text: {name} contains no files to read", "text")
    marks = [(file.relative_to(root).as_posix(), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return TextSource(name, kind, _digest(json.dumps(marks)), documents, lambda: len(files))


def _files_below(root: Path) -> list[Path]:
    """Return every file below `root` in sorted order, without hidden files and caches."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        found += [path for name in names if not name.startswith(".") and (path := Path(folder) / name).is_file()]
    return sorted(found)


def _directory_documents(root: Path, files: list[Path]) -> Iterator[Document]:
    for file in files:
        yield Document(_name_below(root, file), _read_utf8(file) or "")


def _read_utf8(path: Path) -> str | None:
    """Return the file's text, or None if it is binary, not UTF-8 or not readable."""
    try:
        data = path.read_bytes()
        return None if b"\0" in data else data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _file_source(text: str, path: Path, column: str) -> TextSource:
    try:
        with open(path, "rb"):
            stat = path.stat()
    except OSError as error:
        raise UserError(f"text: {text} cannot be read: {error.strerror}", "text") from None
    mark = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    suffix = path.suffix.lower()
    if suffix in _PARQUET:
        table = _open_parquet(path, column)
        return TextSource(text, "parquet", _digest(f"{mark}|{column}"),
                          functools.partial(_parquet_documents, path, column), lambda: int(table.metadata.num_rows))
    if suffix in _JSONL:
        return TextSource(text, "jsonl", _digest(f"{mark}|{column}"),
                          functools.partial(_jsonl_documents, path, column), lambda: _count_bytes(path, b"\n"))
    return TextSource(text, "file", _digest(mark), functools.partial(_file_documents, path),
                      lambda: _count_bytes(path, SEPARATOR.encode()) + 1)


def _file_documents(path: Path) -> Iterator[Document]:
    """Yield the parts of a file between lines that consist of the separator, without newlines at their ends."""
    part: list[str] = []
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for line in file:
                if line.strip() == SEPARATOR:
                    yield Document(f"{path.name}#{number}", "".join(part).strip("\r\n"))
                    part, number = [], number + 1
                else:
                    part.append(line)
    except UnicodeDecodeError as error:
        raise UserError(f"text: {path} is not UTF-8 text ({error.reason})", "text") from None
    if number:
        yield Document(f"{path.name}#{number}", "".join(part).strip("\r\n"))
    else:
        yield Document(path.name, "".join(part))


def _count_bytes(path: Path, needle: bytes) -> int:
    """Count `needle` in the file, possibly missing one that is split between two reads."""
    with open(path, "rb") as file:
        return sum(chunk.count(needle) for chunk in iter(lambda: file.read(_READ_BYTES), b""))


# ---- tables


def _cell(value: Any, where: str, column: str) -> str:
    if value is not None and not isinstance(value, str):
        raise UserError(
            f"text_column: {where}: column {column!r} holds {type(value).__name__}, not text", "text_column")
    return value or ""


def _no_column(name: str, column: str, columns: list[str]) -> UserError:
    there = ", ".join(repr(c) for c in columns) or "none"
    return UserError(f"text_column: {name} has no column {column!r}; there are: {there}", "text_column")


def _jsonl_documents(path: Path, column: str) -> Iterator[Document]:
    number = 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    yield Document(f"{path.name}#{number}", "")
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"text: {path.name}, line {number}, is not a JSON object", "text")
                if column not in row:
                    raise _no_column(f"{path.name}, line {number},", column, [str(key) for key in row])
                cell = _cell(row[column], f"line {number}", column)
                # JSON may contain half of a surrogate pair, which cannot be encoded as text.
                yield Document(f"{path.name}#{number}", cell.encode("utf-8", "replace").decode())
    except json.JSONDecodeError as error:
        raise UserError(f"text: {path.name}, line {number}, is not JSON: {error.msg}", "text") from None
    except UnicodeDecodeError as error:
        raise UserError(f"text: {path} is not UTF-8 text ({error.reason})", "text") from None


def _open_parquet(path: Path, column: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"text: {path} is not a Parquet file that can be read: {error}", "text") from None
    if column not in table.schema_arrow.names:
        raise _no_column(path.name, column, list(table.schema_arrow.names))
    return table


def _parquet_documents(path: Path, column: str) -> Iterator[Document]:
    import pyarrow

    number = 0
    try:
        for batch in _open_parquet(path, column).iter_batches(batch_size=4096, columns=[column]):
            for value in batch.column(0).to_pylist():
                yield Document(f"{path.name}#{number}", _cell(value, f"row {number}", column))
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"text: {path} could not be read past row {number}: {error}", "text") from None


def _dataset_documents(name: str, column: str, split: str) -> Iterator[Document]:
    """Yield the rows of a Hugging Face data set, streamed; `owner/name:config` selects a configuration."""
    if not hub_reachable():
        raise UserError(hub_message("text", name, ConnectionError()), "text")
    from datasets import load_dataset

    path, _, config = name.partition(":")
    try:
        rows = iter(load_dataset(path, config or None, split=split, streaming=True))
        number = 0
        while (row := next(rows, None)) is not None:
            if column not in row:
                raise _no_column(name, column, list(row))
            yield Document(f"{name}/{split}#{number}", _cell(row[column], f"row {number}", column))
            number += 1
    except UserError:
        raise
    except Exception as error:  # the hub client raises many kinds for "no network" and "no such data set"
        if isinstance(error, ValueError) and "split" in str(error).lower():
            raise UserError(f"text_split: {name}: {str(error).splitlines()[0]}", "text_split") from None
        raise UserError(hub_message("text", name, error), "text") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
