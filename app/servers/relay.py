"""Steering runs between servers, by way of the database: who executes one, who watches it, who wants it to stop.

The server that executes a run writes its state only while a page of another server watches it.  If that server dies,
another one takes the run over, if it was watched lately: the same seed gives the same text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.db.clock import clock
from app.db.engine import SessionFactory
from app.db.server_tables import RelayedRun
from app.servers.presence import Presence

REMOTE_S = 3.0  # a page of another server that looked this lately is watching
WATCHED_S = 45.0  # a run that a page watched this lately is taken over; others have failed


@dataclass(frozen=True)
class News:
    """The runs of this server that a page elsewhere wants to stop or is watching, and those that are another's now."""

    stop: frozenset[str]
    remote: frozenset[str]
    lost: frozenset[str]


class Relay:
    """The steering runs of this server and of the others.  Every method talks to the database."""

    def __init__(self, sessions: SessionFactory, presence: Presence) -> None:
        self._sessions, self._presence = sessions, presence

    def announce(self, db: Session, run_id: str) -> None:
        """Add the row of a run that this server will execute, without a commit."""
        db.add(RelayedRun(id=run_id, server=self._presence.id, watched=db.scalar(select(clock(db)))))

    def owns(self, db: Session, run_id: str) -> bool:
        """Return whether this server executes the run, which then stays so until the transaction ends."""
        server = db.scalar(select(RelayedRun.server).where(RelayedRun.id == run_id).with_for_update())
        return server == self._presence.id

    def exchange(self, states: Mapping[str, dict[str, Any] | None], viewed: Collection[str]) -> News:
        """Write the states that are not None, note which runs are watched here, and return the news of all of them."""
        with self._sessions() as db:
            now = db.scalar(select(clock(db))) or 0.0
            rows = {row.id: row for row in db.scalars(
                select(RelayedRun).where(RelayedRun.server == self._presence.id, RelayedRun.id.in_(states)))}
            for run_id, row in rows.items():
                values: dict[str, Any] = {} if states[run_id] is None else {"state": states[run_id]}
                if run_id in viewed and now - row.watched > REMOTE_S:
                    values["watched"] = now
                if values:
                    db.execute(update(RelayedRun).where(
                        RelayedRun.id == run_id, RelayedRun.server == self._presence.id).values(**values))
            db.commit()
        return News(
            frozenset(row.id for row in rows.values() if row.stop),
            frozenset(row.id for row in rows.values() if now - row.remote < REMOTE_S),
            frozenset(states.keys() - rows.keys()))

    def look(self, db: Session, run_id: str) -> RelayedRun | None:
        """Return the row of a run that is not finished, and note that a page of this server watches it."""
        now = clock(db)
        db.execute(update(RelayedRun).where(RelayedRun.id == run_id).values(watched=now, remote=now))
        db.commit()
        return db.get(RelayedRun, run_id, populate_existing=True)

    def ask_stop(self, run_id: str) -> None:
        """Let the server that executes the run stop it."""
        with self._sessions() as db:
            db.execute(update(RelayedRun).where(RelayedRun.id == run_id).values(stop=True))
            db.commit()

    def release(self, run_ids: Collection[str]) -> None:
        """Give runs of this server to the others."""
        with self._sessions() as db:
            db.execute(update(RelayedRun).where(
                RelayedRun.id.in_(run_ids), RelayedRun.server == self._presence.id).values(server=""))
            db.commit()

    def others(self) -> bool:
        """Return whether another server is running."""
        with self._sessions() as db:
            return bool(self._presence.alive(db) - {self._presence.id})

    def orphans(self) -> dict[str, bool]:
        """Return the runs whose server is dead, each with whether it was watched lately."""
        with self._sessions() as db:
            rows = db.scalars(select(RelayedRun).where(RelayedRun.server != self._presence.id)).all()
            if not rows:
                return {}
            alive, now = self._presence.alive(db), db.scalar(select(clock(db))) or 0.0
            return {row.id: now - row.watched < WATCHED_S for row in rows if row.server not in alive}

    def take_over(self, run_id: str) -> bool:
        """Become the server that executes the run, unless its own is running; return whether this succeeded."""
        with self._sessions() as db:
            row = db.get(RelayedRun, run_id)
            if row is None or row.server in self._presence.alive(db):
                return False
            done = db.execute(update(RelayedRun).where(
                RelayedRun.id == run_id, RelayedRun.server == row.server).values(server=self._presence.id))
            db.commit()
            return bool(done.rowcount)  # type: ignore[attr-defined]


def forget(db: Session, run_id: str) -> None:
    """Delete the row of a run that is finished, without a commit."""
    db.execute(delete(RelayedRun).where(RelayedRun.id == run_id))
