"""Consistent copies of a workspace, made while the server runs, and their restoration.

    manifest.json    the size and the SHA-256 of every file
    app.db           the database, copied by SQLite itself, or
    rows.jsonl       its rows, if it is on a server: {"table": name, "row": {...}} in each line
    files/           saes, builds, comparisons, corpora and runs, as in the workspace

The database is copied first.  A file that is made afterwards is only newer than its row, which the supervisor of the
restored workspace handles.  Files that are never changed in place are hard links where the file system allows it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Table, func, insert, select, text

from app.db.engine import upgrade
from app.db.tables import Base
from sae import __version__
from sae.errors import UserError
from sae.workspace.disk import RESTORING, need_space
from sae.workspace.files import atomic_write, write_json

FORMAT = 1
FOLDERS = ("saes", "builds", "comparisons", "corpora", "runs")
# Links to these would go on changing.
_APPENDED = frozenset({"progress.jsonl", "log.txt", "explanations.jsonl", "requests.jsonl"})
_SKIPPED = frozenset({"lock", ".lock", "cancel"})


@dataclass(frozen=True)
class Summary:
    """The content of a backup: the number of its files, their bytes, and how many are links."""

    files: int
    n_bytes: int
    linked: int = 0


def make_backup(engine: Engine, home: Path, target: Path, link: bool = True) -> Summary:
    """Write a backup of the workspace `home` to the new folder `target`, which appears when it is complete.

    Raises UserError (field `dest`) if `target` exists or is inside the workspace.
    """
    target = target.expanduser().resolve()
    if target.exists():
        raise UserError(f"dest: {target} exists already; name a new folder", "dest")
    if target.is_relative_to(home):
        raise UserError(f"dest: {target} is inside the workspace; name a folder outside of it", "dest")
    sources = list(_sources(home))
    if not link:
        need_space(target, sum(_size(home / name) for name in sources), "this backup")
    with atomic_write(target) as temporary:
        temporary.mkdir(parents=True)
        entries = {name: _entry(temporary / name) for name in _copy_database(engine, temporary)}
        linked = 0
        for name in sources:
            copy = temporary / "files" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                linked += _place(home / name, copy, link)
            except FileNotFoundError:  # deleted in the meantime, or replaced by a newer one
                continue
            entries[f"files/{name}"] = _entry(copy)
        write_json(temporary / "manifest.json", {
            "format": FORMAT, "saescope_version": __version__, "created": time.time(), "files": entries})
    return Summary(len(entries), sum(size for size, _ in entries.values()), linked)


def check_backup(source: Path) -> dict[str, tuple[int, str]]:
    """Compare every file with the manifest, and return the manifest's entries.

    Raises UserError (field `src`) if it is not a backup, belongs to a newer version, or has missing or damaged files.
    """
    try:
        manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
        entries = {str(name): (int(size), str(digest)) for name, (size, digest) in manifest["files"].items()}
        version = int(manifest["format"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"src: {source} is not a backup: it has no usable manifest.json", "src") from None
    if version > FORMAT:
        raise UserError(f"src: {source} was made by a newer version of saescope; install that version", "src")
    bad = [name for name, entry in entries.items() if not _inside(source, name) or not _matches(source / name, entry)]
    if bad:
        more = f" and {len(bad) - 3:,} more" if len(bad) > 3 else ""
        raise UserError(f"src: {len(bad):,} of {len(entries):,} files are missing or damaged: "
                        f"{', '.join(bad[:3])}{more}", "src")
    return entries


def restore_backup(source: Path, engine: Engine, home: Path) -> Summary:
    """Check a backup and copy it into the workspace `home`, which must be empty or partly restored.

    Raises UserError: field `src` if the backup is damaged, field `home` if the workspace or the database is not empty.
    """
    source = source.expanduser().resolve()
    entries = check_backup(source)
    marker = home / RESTORING
    if home.exists() and not marker.exists() and any((home / name).exists() for name in (*FOLDERS, "app.db")):
        raise UserError(f"home: the workspace {home} is not empty; move it away, or name another one with --home",
                        "home")
    need_space(home, sum(size for size, _ in entries.values()), "the restoration")
    home.mkdir(parents=True, exist_ok=True)
    marker.touch()
    for name in entries:
        if name.startswith("files/"):
            with atomic_write(home / name.removeprefix("files/")) as temporary:
                shutil.copy2(source / name, temporary)
    _restore_database(source, engine, home)
    marker.unlink()
    return Summary(len(entries), sum(size for size, _ in entries.values()))


def _sources(home: Path) -> Iterator[str]:
    """Yield the paths, relative to the workspace, of the files that belong in a backup."""
    for folder in FOLDERS:
        for path in sorted((home / folder).rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(home).parts)
            if path.is_file() and not hidden and path.name not in _SKIPPED:
                yield path.relative_to(home).as_posix()


def _place(source: Path, copy: Path, link: bool) -> bool:
    """Link or copy a file, and return whether it is a link."""
    if link and source.name not in _APPENDED:
        try:
            os.link(source, copy)
            return True
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            pass
    shutil.copy2(source, copy)
    return False


def _copy_database(engine: Engine, target: Path) -> list[str]:
    if engine.dialect.name == "sqlite":
        with sqlite3.connect(target / "app.db") as copy, engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # so that the copy is one file
        copy.close()
        return ["app.db"]
    with open(target / "rows.jsonl", "w", encoding="utf-8") as file, engine.connect() as connection:
        connection = connection.execution_options(isolation_level="SERIALIZABLE")  # one moment for all tables
        for table in _kept_tables():
            for row in connection.execute(select(table)).mappings():
                file.write(json.dumps({"table": table.name, "row": dict(row)}) + "\n")
    return ["rows.jsonl"]


def _restore_database(source: Path, engine: Engine, home: Path) -> None:
    if (source / "app.db").exists():
        if engine.dialect.name == "sqlite":
            with atomic_write(home / "app.db") as temporary:
                shutil.copy2(source / "app.db", temporary)
            upgrade(engine)
            return
        raise UserError("src: the backup has a SQLite database; restore it without DATABASE_URL", "src")
    upgrade(engine)
    with engine.begin() as connection:
        for table in reversed(_kept_tables()):
            if connection.scalar(select(func.count()).select_from(table)):
                raise UserError(f"home: the database is not empty ({table.name} has rows); use an empty one", "home")
        tables = Base.metadata.tables
        with open(source / "rows.jsonl", encoding="utf-8") as file:
            for line in file:
                entry = json.loads(line)
                connection.execute(insert(tables[entry["table"]]), entry["row"])
        if connection.dialect.name == "postgresql":  # rows with given numbers do not move its counters
            for table in _kept_tables():
                if (column := table.autoincrement_column) is not None:
                    connection.execute(text(
                        f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'),"
                        f" (SELECT coalesce(max({column.name}), 0) + 1 FROM {table.name}), false)"))


def _kept_tables() -> list[Table]:
    """Return the tables that belong in a backup, in the order in which they can be filled."""
    return [table for table in Base.metadata.sorted_tables if not table.info.get("passing")]


def _entry(path: Path) -> tuple[int, str]:
    with open(path, "rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _matches(path: Path, entry: tuple[int, str]) -> bool:
    return path.is_file() and path.stat().st_size == entry[0] and _entry(path) == entry


def _inside(source: Path, name: str) -> bool:
    return (source / name).resolve().is_relative_to(source.resolve())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
