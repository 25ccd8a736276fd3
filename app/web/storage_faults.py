"""Faults of the disk and the database that are not the visitor's: their status, their words, and when to try again."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sae.workspace.disk import is_full

_RETRY_S = "5"
KINDS = (OSError, DBAPIError, PoolTimeout)


@dataclass(frozen=True)
class StorageFault:
    """An answer to a request that failed because something could not be stored or read."""

    status: int
    reason: str  # a clause such as "the disk is full"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def message(self) -> str:
        again = "Free some space on the server, then try again." if self.status == 507 else "Try again in a moment."
        return f"{self.reason[0].upper()}{self.reason[1:]}: nothing was stored. {again}"


def storage_fault(error: BaseException) -> StorageFault | None:
    """Return the answer to a fault of the disk or the database, or None for a fault of the program."""
    if isinstance(error, KINDS) and is_full(error):
        return StorageFault(507, "the disk is full")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return _later("the workspace is read-only")
    if isinstance(error, PoolTimeout):
        return _later("the database has too many requests")
    if not isinstance(error, DBAPIError):
        return None
    words = str(error.orig)
    if "locked" in words or "busy" in words:
        return _later("the database is locked by another program")
    if "readonly" in words or "read-only" in words:
        return _later("the database is read-only")
    if error.connection_invalidated or isinstance(error, OperationalError):
        away = "unable to open" in words or "disk I/O" in words or not words.startswith(("no such", "near "))
        return _later("the database cannot be reached") if away else None
    return None


def _later(reason: str) -> StorageFault:
    return StorageFault(503, reason, {"Retry-After": _RETRY_S})
