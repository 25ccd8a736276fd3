"""The disk of the workspace: whether it can be used, how much of it is free, and its faults in words."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from sae.errors import UserError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# What SQLite, DuckDB, Rust and numpy say, which have no error numbers.
_SAY_FULL = re.compile(r"disk is full|No space left on device|File too large|Disk quota exceeded|"
                       r"\d+ requested and \d+ written")
RESTORING = ".restoring"  # this file is in a workspace while it is being restored
_SPARE = 100_000_000  # bytes that stay free for the database, logs and status files


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, says that the disk or a quota is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if _SAY_FULL.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def fault_words(error: OSError) -> str:
    """Return a fault of the file system as one line for a person, or "" if it is a fault of the program."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in FULL:
        return f"the disk is full{where}; free some space, then run the same command again"
    if error.errno in READ_ONLY:
        return f"no permission to write{where}; change the permissions, or set another workspace in SAESCOPE_HOME"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"a file is where a folder should be{where}; move it away, or set another workspace in SAESCOPE_HOME"
    return f"the disk failed{where}: {error.strerror}" if error.errno == errno.EIO else ""


class ReadOnlyWorkspace(UserError):
    """An error for a workspace that is there but cannot be written."""


def open_workspace(home: Path) -> None:
    """Make the workspace's folder if there is none.

    Raises UserError if it is no folder, and ReadOnlyWorkspace if it is one that cannot be written.
    """
    if (home / RESTORING).exists():
        raise UserError(f"SAESCOPE_HOME: the workspace {home} is only partly restored; run 'saescope restore' again",
                        "SAESCOPE_HOME")
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        words = fault_words(error) or str(error)
        kind = ReadOnlyWorkspace if error.errno in READ_ONLY and home.is_dir() else UserError
        raise kind(f"SAESCOPE_HOME: the workspace {home} cannot be used: {words}", "SAESCOPE_HOME") from None


def need_space(folder: Path, n_bytes: float, purpose: str) -> None:
    """Raise UserError (field `disk`) unless `n_bytes`, and some to spare, are free where `folder` is."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < n_bytes + _SPARE:
        raise UserError(f"disk: {purpose} needs about {_gb(n_bytes + _SPARE)}, and {_gb(free)} are free in {folder}; "
                        "free some space (saescope gc lists what can go), then resume the run", "disk")


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.0f} MB"
