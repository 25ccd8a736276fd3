"""Errors that are the user's to mend: shown as one line, never as a traceback."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what, why and what to do.

    `field` names the setting at fault, so that a form can show the message beside it.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Cancelled(Exception):
    """The run was asked to stop and did so at a safe point."""


class Interrupted(Exception):
    """The process was told to end (SIGTERM, Ctrl-C); the run can be resumed."""
