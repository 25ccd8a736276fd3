"""Errors that the user can fix.  They are shown as one line, never as a traceback."""

from __future__ import annotations

from pathlib import Path


class UserError(ValueError):
    """Input from the user that cannot be used.  The message says what, why and what to do.

    `field` names the setting at fault, so that a form can show the message next to it.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class DamagedFile(UserError):
    """A file of the workspace that cannot be read any more.  The message says which one and what mends it.

    `path` is the file.  Pages answer with status 503, because the address is right and the file can be mended.
    """

    def __init__(self, message: str, path: Path, field: str | None = None) -> None:
        super().__init__(message, field)
        self.path = path


class Cancelled(Exception):
    """A request to stop the run, which was honoured at a safe point."""


class Interrupted(Exception):
    """A signal to end the process (SIGTERM, Ctrl-C).  The run can be resumed."""
