"""Tables by which several servers on one database know of each other.  Their times are by the database's clock.

They hold the present moment only, so backups leave them out (`PASSING`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import String, false
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables import PASSING, Base


class Server(Base):
    """A server that is running, or was until its last heartbeat `seen`."""

    __tablename__ = "servers"
    __table_args__ = PASSING

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    host: Mapped[str] = mapped_column(String(80))
    started: Mapped[float]
    seen: Mapped[float]


class Lease(Base):
    """A task that one server at a time may do: its `holder` may until the time `until`."""

    __tablename__ = "leases"
    __table_args__ = PASSING

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    holder: Mapped[str] = mapped_column(String(80))
    until: Mapped[float]


class RateBucket(Base):
    """A token bucket of a rate limit: `tokens` were in it at the time `at`."""

    __tablename__ = "rate_buckets"
    __table_args__ = PASSING

    key: Mapped[str] = mapped_column(String(160), primary_key=True)
    tokens: Mapped[float]
    at: Mapped[float]


class RelayedRun(Base):
    """A steering run that a server executes, for the pages of the other servers.

    `watched` is when a page was last seen watching it, at any server.  `state` is written while one of another server
    does.
    """

    __tablename__ = "relayed_runs"
    __table_args__ = PASSING

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    server: Mapped[str] = mapped_column(String(80), index=True)
    watched: Mapped[float]
    remote: Mapped[float] = mapped_column(default=0.0, server_default="0")  # `watched` at other servers alone
    stop: Mapped[bool] = mapped_column(default=False, server_default=false())
    state: Mapped[dict[str, Any] | None]
