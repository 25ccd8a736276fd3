"""Files that are written whole or not at all, and locks that end with the process that holds them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

HOST = socket.gethostname().partition(".")[0].replace("-", "_") or "host"

_numbers = count(1)
_thread = threading.local()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a free path next to `path` for a file or a folder, which is renamed to `path` once the block ends well.

    It is flushed to the disk before the rename, so a crash leaves either the old content or all of the new.  If the
    block raises, the temporary file is removed.  Leftovers of killed processes of this machine are removed, too.  A
    file at `path` is replaced; raises OSError if a folder `path` exists already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_thread_part()}{HOST}-{os.getpid()}.tmp")
    _remove_leftovers(path, temporary)
    try:
        yield temporary
        for written in temporary.rglob("*") if temporary.is_dir() else [temporary]:
            if written.is_file():
                _flush(written)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` atomically by the JSON of `value`.  Raises ValueError for numbers that JSON does not have."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")


def write_json_once(path: Path, value: Any) -> Any:
    """Write the JSON of `value` unless another process has written `path`, and return what the file holds then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    try:
        with suppress(FileExistsError):
            os.link(temporary, path)
    except OSError:  # a file system without hard links
        if not path.exists():
            os.replace(temporary, path)
    temporary.unlink(missing_ok=True)
    return json.loads(path.read_text(encoding="utf-8"))


def lock(path: Path) -> FileLock:
    """Return the lock of this path.  The system releases it when the process that holds it ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, thread_local=False)


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock of this path."""
    held = lock(path)
    try:
        held.acquire(blocking=False)
    except Timeout:
        return True
    held.release()
    return False


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _thread_part() -> str:
    """Return what tells this thread's temporary files from those of other threads that write the same path."""
    if threading.current_thread() is threading.main_thread():
        return ""
    if not hasattr(_thread, "number"):
        _thread.number = next(_numbers)
    return f"{_thread.number}."


def _remove_leftovers(path: Path, own: Path) -> None:
    for old in (*path.parent.glob(f".{path.name}.{HOST}-*.tmp"), *path.parent.glob(f".{path.name}.*.{HOST}-*.tmp")):
        pid = old.name.removesuffix(".tmp").rpartition("-")[2]
        if old == own or not (pid.isdecimal() and psutil.pid_exists(int(pid))):
            _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
