"""The servers that share one database: which of them are running, and which one supervises the runs.

Each renews its row every second, by the database's clock.  One that has not done so for `ALIVE_S` is taken for dead.
The supervisor's lease goes to another server after the same time, or at once if its holder stops in order.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from typing import Protocol

from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db.clock import clock
from app.db.engine import SessionFactory
from app.db.server_tables import Lease, RateBucket, Server
from sae.workspace.files import HOST

log = logging.getLogger(__name__)

BEAT_S = 1.0
ALIVE_S = 6.0
MARGIN_S = 2.0  # a holder stops this long before its lease ends, so that there are never two
FORGOTTEN_S = 3600.0  # rows of dead servers, and full rate buckets, are deleted after this
SUPERVISOR = "supervisor"


class Leadership(Protocol):
    """The answer to the question whether this server supervises the runs now."""

    def leads(self) -> bool: ...


class OnlyServer:
    """The only server of its workspace, because it holds the workspace's lock."""

    def leads(self) -> bool:
        return True


class Presence:
    """This server among those that share the database.  A thread renews its row, and its lease while it has it."""

    def __init__(self, sessions: SessionFactory, *, supervises: bool = True) -> None:
        """Prepare a server's presence; `supervises=False` never takes the supervisor's lease."""
        self.id = f"{HOST[:50]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._sessions, self._supervises = sessions, supervises
        self._leads_until = 0.0  # by the clock of this process, which never jumps
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="presence", daemon=True)

    def open(self) -> None:
        """Enter this server into the database and begin to renew its row."""
        with self._sessions() as db:
            now = db.scalar(select(clock(db)))
            db.add(Server(id=self.id, host=HOST[:80], started=now, seen=now))
            db.commit()
        self.beat()
        self._thread.start()

    def close(self) -> None:
        """Give the lease back and remove this server's row.  The row of a database that is away ends by its age."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._leads_until = 0.0
        try:
            with self._sessions() as db:
                db.execute(update(Lease).where(Lease.holder == self.id).values(until=0.0))
                db.execute(delete(Server).where(Server.id == self.id))
                db.commit()
        except SQLAlchemyError as error:
            log.warning("this server could not be signed off: %s", error)

    def leads(self) -> bool:
        """Return whether this server holds the supervisor's lease."""
        return time.monotonic() < self._leads_until

    def alive(self, db: Session) -> set[str]:
        """Return the ids of the servers that are running."""
        return set(db.scalars(select(Server.id).where(Server.seen > clock(db) - ALIVE_S)))

    def beat(self) -> None:
        """Renew this server's row, and take or renew the lease if it may.  Raises SQLAlchemyError."""
        began = time.monotonic()
        with self._sessions() as db:
            now = clock(db)
            seen = db.execute(update(Server).where(Server.id == self.id).values(seen=now))
            if seen.rowcount == 0:  # type: ignore[attr-defined]  # forgotten while this process was paused
                db.add(Server(id=self.id, host=HOST[:80], started=db.scalar(select(now)), seen=db.scalar(select(now))))
            db.execute(delete(Server).where(Server.seen < now - FORGOTTEN_S))
            db.execute(delete(RateBucket).where(RateBucket.at < now - FORGOTTEN_S))
            db.commit()
            leads = self._supervises and _take_lease(db, self.id)
        if leads != self.leads():
            log.info("this server %s the runs now", "supervises" if leads else "no longer supervises")
        self._leads_until = began + ALIVE_S - MARGIN_S if leads else 0.0

    def _keep(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self.beat()
            except Exception as error:  # the database is away; the lease ends by its age
                log.warning("this server could not be announced: %s", str(error).splitlines()[0])


def _take_lease(db: Session, holder: str) -> bool:
    """Take or renew the supervisor's lease if nobody else holds it; return whether this succeeded."""
    now = clock(db)
    free = (Lease.holder == holder) | (Lease.until < now)
    taken = db.execute(update(Lease).where(Lease.name == SUPERVISOR, free).values(holder=holder, until=now + ALIVE_S))
    done = bool(taken.rowcount)  # type: ignore[attr-defined]
    if not done and db.get(Lease, SUPERVISOR) is None:
        db.add(Lease(name=SUPERVISOR, holder=holder, until=db.scalar(select(now + ALIVE_S))))
        done = True
    try:
        db.commit()
    except SQLAlchemyError:  # another server was the first by a moment
        db.rollback()
        return False
    return done
