"""One server a workspace: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sae.errors import UserError


class WorkspaceLock:
    """`server.lock` in the workspace, held until `release()` or the end of the process."""

    def __init__(self, home: Path, who: str = "") -> None:
        """Take the lock and write `who` into it.  Raises UserError where another server has it."""
        home.mkdir(parents=True, exist_ok=True)
        self.path = home / "server.lock"
        self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115  (closing it would let go)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise UserError(
                f"the workspace {home} is in use by a saescope server ({holder}); stop that one, "
                "or name another workspace in SAESCOPE_HOME") from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()}{', ' + who if who else ''}")
        self._file.flush()

    def release(self) -> None:
        """Let the next server in.  Doing it twice is no error."""
        self._file.close()
