"""The lock that allows one server per workspace; it ends with the process that holds it, however that ends."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import Timeout

from sae.errors import UserError
from sae.workspace.files import lock


class WorkspaceLock:
    """The lock on `server.lock` in the workspace, held until `release()` or the end of the process."""

    def __init__(self, home: Path, who: str = "") -> None:
        """Take the lock and write `who` into the file.  Raises UserError if another server holds it."""
        self.path = home / "server.lock"
        self._lock = lock(self.path)
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
