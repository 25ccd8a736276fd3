"""Tests of several servers on one database: they see each other, and one of them supervises the runs."""

from __future__ import annotations

import time

from sqlalchemy import update

from app.db.engine import SessionFactory
from app.db.server_tables import Lease, Server
from app.servers import presence as engine
from app.servers.presence import OnlyServer, Presence


def test_the_first_leads_and_the_next_takes_over_when_it_stops(sessions: SessionFactory) -> None:
    first, second = Presence(sessions), Presence(sessions)
    first.open()
    second.open()
    assert (first.leads(), second.leads()) == (True, False)
    with sessions() as db:
        assert first.alive(db) == {first.id, second.id}
    first.close()
    assert not first.leads()
    second.beat()
    assert second.leads()
    with sessions() as db:
        assert second.alive(db) == {second.id}
    second.close()


def test_a_dead_leader_is_followed_after_its_time(sessions: SessionFactory) -> None:
    dead, other = Presence(sessions), Presence(sessions)
    dead.beat()
    other.beat()
    assert not other.leads()
    with sessions() as db:
        db.execute(update(Lease).values(until=Lease.until - engine.ALIVE_S))
        db.execute(update(Server).where(Server.id == dead.id).values(seen=Server.seen - engine.ALIVE_S))
        db.commit()
        assert other.alive(db) == {other.id}
    other.beat()
    assert other.leads()
    dead.beat()  # it was only paused
    assert not dead.leads()


def test_a_leader_that_cannot_renew_stops_leading_first(sessions: SessionFactory) -> None:
    leader = Presence(sessions)
    leader.beat()
    assert leader._leads_until < time.monotonic() + engine.ALIVE_S - engine.MARGIN_S + 0.001
    leader._leads_until = time.monotonic()
    assert not leader.leads()


def test_a_server_that_may_not_supervise_never_leads(sessions: SessionFactory) -> None:
    web = Presence(sessions, supervises=False)
    web.beat()
    assert not web.leads()
    other = Presence(sessions)
    other.beat()
    assert other.leads()
    assert OnlyServer().leads()


def test_the_rows_of_the_dead_are_forgotten(sessions: SessionFactory) -> None:
    dead, other = Presence(sessions), Presence(sessions)
    dead.beat()
    with sessions() as db:
        db.execute(update(Server).values(seen=1.0))
        db.commit()
    other.beat()
    with sessions() as db:
        assert {row.id for row in db.query(Server)} == {other.id}
