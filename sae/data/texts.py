"""Sources of text: named documents, one after another.  No torch.

A text is named by one string: `stdlib`, a text file, a directory, a file or a directory of rows (`sae.data.rows`), or
a Hugging Face data set (`owner/name`, or `owner/name:config`).  `find_text` decides which it is
without reading it; `TextSource.documents` then reads it in a fixed order.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sae.data import rows
from sae.data.documents import Document, document_of
from sae.errors import UserError
from sae.lm.item_files import ItemFile, fingerprint, item_files
from sae.lm.model_info import hub_message, hub_reachable
from sae.workspace.paths import typed_path

STDLIB = "stdlib"
SEPARATOR = "<|endoftext|>"
# Limits of source text worth reading: no stubs, no tables of data, no minified lines.
MIN_CHARACTERS, MAX_CHARACTERS, MAX_LINE = 200, 300_000, 400
_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_TABLES = frozenset({"encodings", "pydoc_data"})  # of the standard library: a sixth of its tokens, hardly any code


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
        if vectors := item_files(path):
            return TextSource(text, "items", fingerprint(path), functools.partial(_item_documents, vectors),
                              lambda: len(vectors))
        return _of_folder(text, path, column, split)
    if path.is_file():
        return _file_source(text, path, column)
    if path.exists() or text.startswith(("/", ".", "~")) or text.count("/") > 1 or " " in text or (
            rows.kind_of(path) or path.suffix.lower() in rows.COMPRESSED | {".txt", ".md"}):
        raise UserError(f"text: {text} is not a file or directory that can be read here", "text")
    key = f"{text}|{column}|{split}"
    return TextSource(
        text, "dataset", _digest(key), functools.partial(_dataset_documents, text, column, split), lambda: 0, True)


def _item_documents(files: list[ItemFile]) -> Iterator[Document]:
    """Yield the items of each file as token ids; token 0 stands before every context."""
    first = 1
    for file in files:
        yield Document(file.path.name, ids=list(range(first, first + file.n_items)))
        first += file.n_items


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
    if kind := rows.kind_of(path):
        rows.check(path, column)
        return TextSource(text, kind, _digest(f"{mark}|{column}"),
                          functools.partial(_row_documents, path.parent, [path], column),
                          functools.partial(rows.count_rows, path))
    counted = path.suffix.lower() not in rows.COMPRESSED
    return TextSource(text, "file", _digest(mark), functools.partial(_file_documents, path),
                      lambda: rows.count_bytes(path, SEPARATOR.encode()) + 1 if counted else 0)


def _file_documents(path: Path) -> Iterator[Document]:
    """Yield the parts of a file between lines that consist of the separator, without newlines at their ends."""
    part: list[str] = []
    number = 0
    try:
        with rows.open_text(path) as file:
            for line in file:
                if line.strip() == SEPARATOR:
                    yield Document(f"{path.name}#{number}", "".join(part).strip("\r\n"))
                    part, number = [], number + 1
                else:
                    part.append(line)
    except UnicodeDecodeError as error:
        raise UserError(f"text: {path} is not UTF-8 text ({error.reason})", "text") from None
    except (OSError, EOFError) as error:
        raise UserError(f"text: {path} could not be read: {error}", "text") from None
    if number:
        yield Document(f"{path.name}#{number}", "".join(part).strip("\r\n"))
    else:
        yield Document(path.name, "".join(part))


# ---- rows


def _of_folder(text: str, root: Path, column: str, split: str) -> TextSource:
    """Return the source of a folder: rows if its files hold rows, else one document for each text file."""
    if (root / "dataset_dict.json").is_file():  # saved by `datasets`: one folder for each split
        splits = sorted(path.parent.name for path in root.glob("*/state.json"))
        if split not in splits:
            raise UserError(f"text_split: {text} has no split {split!r}; there are: {', '.join(splits) or 'none'}",
                            "text_split")
        root = root / split
    files = _saved(root) or _files_below(root)
    tables = [file for file in files if rows.kind_of(file) and not rows.is_companion(file)]
    others = [file for file in files if not rows.kind_of(file) and not _describes(file)]
    if others:
        mixed = [file for file in tables if rows.kind_of(file) != "json"]  # a lone .json file is a configuration
        if mixed:
            raise UserError(
                f"text: {text} holds files of rows ({len(mixed)}, such as {_name_below(root, mixed[0])}) and files of "
                f"text ({len(others)}, such as {_name_below(root, others[0])}); give a folder with one kind, or one "
                "file", "text")
        files = [file for file in files if not rows.kind_of(file)]
    elif tables:
        tables = _of_split(text, root, tables, split)
        for file in tables:
            rows.check(file, column)
        source = _of_files(text, "rows", tables, root, functools.partial(_row_documents, root, tables, column))
        return replace(source, fingerprint=_digest(f"{source.fingerprint}|{column}"), count=lambda: _count(tables))
    return _of_files(text, "directory", files, root, functools.partial(_directory_documents, root, files))


def _saved(root: Path) -> list[Path]:
    """Return the Arrow files of a data set saved by `datasets`, without its caches; empty for another folder."""
    try:
        names = [str(item["filename"]) for item in json.loads((root / "state.json").read_bytes())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [root / Path(name).name for name in names if (root / Path(name).name).is_file()]


def _describes(file: Path) -> bool:
    """Return whether a file next to rows describes them, as a read-me or a licence does."""
    return rows.is_companion(file) or file.stem.upper() in ("README", "LICENSE", "LICENCE", "NOTICE")


def _of_split(text: str, root: Path, files: list[Path], split: str) -> list[Path]:
    """Return the files of a split, if the names of the files tell splits apart; else all of them."""
    named = {file: rows.split_of(file.relative_to(root).as_posix()) for file in files}
    splits = sorted({name for name in named.values() if name})
    if not splits:
        return files
    chosen = [file for file in files if named[file] == split]
    if not chosen:
        raise UserError(f"text_split: {text} has no files of the split {split!r}; the names of its files tell of: "
                        f"{', '.join(splits)}", "text_split")
    return chosen


def _count(files: list[Path]) -> int:
    counts = [rows.count_rows(file) for file in files]
    return sum(counts) if all(counts) else 0


def _row_documents(root: Path, files: list[Path], column: str) -> Iterator[Document]:
    """Yield a document for each row of the files in order."""
    for file in files:
        name = _name_below(root, file)
        for at, row in rows.rows_of(file, column):
            number = at.rpartition(" ")[2]
            yield document_of(f"{name}#{number}", row.get(column), f"{name}, {at}", column)


def _dataset_documents(name: str, column: str, split: str) -> Iterator[Document]:
    """Yield the rows of a Hugging Face data set, streamed; `owner/name:config` selects a configuration."""
    if not hub_reachable():
        raise UserError(hub_message("text", name, ConnectionError()), "text")
    from datasets import load_dataset

    path, _, config = name.partition(":")
    try:
        stream = iter(load_dataset(path, config or None, split=split, streaming=True))
        number = 0
        while (row := next(stream, None)) is not None:
            if column not in row:
                raise rows.no_column(name, column, list(row))
            yield document_of(f"{name}/{split}#{number}", row[column], f"row {number}", column)
            number += 1
    except UserError:
        raise
    except Exception as error:  # the hub client raises many kinds for "no network" and "no such data set"
        if isinstance(error, ValueError) and "split" in str(error).lower():
            raise UserError(f"text_split: {name}: {str(error).splitlines()[0]}", "text_split") from None
        raise UserError(hub_message("text", name, error), "text") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
