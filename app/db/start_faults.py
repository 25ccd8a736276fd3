"""Faults of the app database at the start of the program, each as one line with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text
from sqlalchemy.exc import DatabaseError, DBAPIError

from sae.errors import UserError


@contextmanager
def named_faults(engine: Engine) -> Iterator[None]:
    """Raise UserError, in one line, for whatever keeps the program from opening or upgrading its database."""
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
        if engine.dialect.name != "sqlite":
            raise UserError(f"{_name(engine)} cannot be used: {reason}; check DATABASE_URL, and that the database "
                            "server is running") from None
        if "locked" in reason:
            raise UserError(f"{_name(engine)} is locked by another program; end that program, then start again"
                            ) from None
        if "disk is full" in reason:
            raise UserError(f"{_name(engine)} cannot be written: the disk is full; free some space, then start again"
                            ) from None
        if "unable to open" in reason or "readonly" in reason:
            raise UserError(f"{_name(engine)} cannot be written ({reason}); change the permissions of the file and "
                            "its folder, or set another workspace in SAESCOPE_HOME") from None
        raise UserError(f"{_name(engine)} is damaged ({reason}); {_start_over(engine)}") from None


def newer(engine: Engine) -> UserError:
    """Return the error for a database whose schema this version does not know."""
    return UserError(
        f"{_name(engine)} was written by a newer version of saescope; install that version or a newer one, "
        f"or {_start_over(engine)}")


def check_pages(engine: Engine) -> None:
    """Let SQLite check its file.  Raises sqlalchemy.exc.DatabaseError if it is damaged."""
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        said = str(connection.execute(text("PRAGMA quick_check(1)")).scalar())
    if said != "ok":
        raise DatabaseError("PRAGMA quick_check", {}, Exception(said.replace("\n", " ")))


def _name(engine: Engine) -> str:
    return f"the database {engine.url.database}" if engine.dialect.name == "sqlite" else "DATABASE_URL"


def _start_over(engine: Engine) -> str:
    if engine.dialect.name != "sqlite":
        return "use another database"
    return ("restore it with 'saescope restore', or move it away: SAEs, builds and runs are then found again in their "
            "folders, while users, labels and stored steering runs start empty")
