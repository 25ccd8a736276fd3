"""The database's clock, which all its servers share, and tasks that only one of them may do at a time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Dialect, Double, Engine, literal_column, text
from sqlalchemy.orm import Session

_CLOCKS = {
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)"}


def clock(bind: Session | Connection) -> ColumnElement[float]:
    """Return the SQL expression for the time of the database, in Unix seconds."""
    expression: ColumnElement[Any] = literal_column(_CLOCKS[_dialect(bind).name], Double)
    return expression


def shared_by_servers(engine: Engine) -> bool:
    """Return whether several servers may use this database, because it is a server itself."""
    return engine.dialect.name == "postgresql"


def one_at_a_time(bind: Session | Connection, task: str) -> None:
    """Wait until no other server does this task, and keep the others out until this transaction ends.

    SQLite has one server only, so there this does nothing.
    """
    if _dialect(bind).name == "postgresql":
        bind.execute(text("SELECT pg_advisory_xact_lock(hashtext(:task))"), {"task": f"saescope {task}"})


def _dialect(bind: Session | Connection) -> Dialect:
    return bind.get_bind().dialect if isinstance(bind, Session) else bind.dialect
