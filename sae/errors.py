"""Errors that the user can fix.  They are shown as one line, never as a traceback."""


class UserError(ValueError):
    """Input from the user that cannot be used.  The message says what, why and what to do.

    `field` names the setting at fault, so that a form can show the message next to it.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Cancelled(Exception):
    """A request to stop the run, which was honoured at a safe point."""


class Interrupted(Exception):
    """A signal to end the process (SIGTERM, Ctrl-C).  The run can be resumed."""
