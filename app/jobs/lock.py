"""The lock on a workspace: one server at a time, or several that share it.

It ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from sae.errors import UserError
from sae.workspace.files import lock


class WorkspaceLock:
    """The lock on `server.lock` in the workspace, held until `release()` or the end of the process."""

    def __init__(self, home: Path, who: str = "", *, shared: bool = False) -> None:
        """Take the lock and write `who` into the file.

        A `shared` lock admits others of its kind, for servers on one Postgres database.  Raises UserError if another
        server holds the lock.
        """
        self.path = home / "server.lock"
        self._lock = SharedLock(self.path) if shared else lock(self.path)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            holder = self.path.read_text(encoding="utf-8").strip() or "another process"
            raise UserError(
                f"the workspace {home} is in use by a saescope server ({holder}); stop that server, "
                "or set another workspace in SAESCOPE_HOME") from None
        self.path.write_text(f"process {os.getpid()}{', ' + who if who else ''}", encoding="utf-8")

    def release(self) -> None:
        """Release the lock.  A second call does nothing."""
        self._lock.release(force=True)


class SharedLock:
    """A lock that any number of processes hold together, while nobody holds the exclusive one on the same path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self, blocking: bool = False) -> None:
        """Take the lock.  Raises filelock.Timeout if a process has the exclusive one."""
        import fcntl  # not on Windows, where only one server is supported

        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | (0 if blocking else fcntl.LOCK_NB))
        except OSError:
            os.close(file)
            raise Timeout(str(self._path)) from None
        self._file = file

    def release(self, force: bool = False) -> None:
        """Release the lock.  A second call does nothing."""
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None
