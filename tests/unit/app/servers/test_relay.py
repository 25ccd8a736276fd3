"""Tests of what servers on one database tell each other about their steering runs."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from app.db.engine import SessionFactory
from app.db.server_tables import RelayedRun, Server
from app.servers.presence import Presence
from app.servers.relay import Relay, forget

Pair = tuple[Relay, Relay, Presence]


@pytest.fixture
def pair(sessions: SessionFactory) -> Pair:
    """Two servers, the first of which executes the run `r`."""
    here, there = Presence(sessions), Presence(sessions)
    here.beat()
    there.beat()
    relay = Relay(sessions, here)
    with sessions() as db:
        relay.announce(db, "r")
        db.commit()
    return relay, Relay(sessions, there), here


def test_a_state_reaches_the_other_server_and_its_wish_comes_back(pair: Pair, sessions: SessionFactory) -> None:
    here, there, _ = pair
    news = here.exchange({"r": None}, [])
    assert (news.stop, news.remote, news.lost) == (frozenset(), frozenset(), frozenset())
    with sessions() as db:
        row = there.look(db, "r")
        assert row is not None
        assert row.state is None
    assert here.exchange({"r": {"state": "running"}}, ["r"]).remote == {"r"}
    with sessions() as db:
        row = there.look(db, "r")
        assert row is not None
        assert row.state == {"state": "running"}
    there.ask_stop("r")
    assert here.exchange({"r": None}, []).stop == {"r"}
    with sessions() as db:
        assert here.owns(db, "r")
        assert not there.owns(db, "r")
        forget(db, "r")
        db.commit()
        assert there.look(db, "r") is None
    assert here.exchange({"r": None}, []).lost == {"r"}


def test_a_dead_servers_run_goes_to_one_other_server(pair: Pair, sessions: SessionFactory) -> None:
    here, there, presence = pair
    assert there.orphans() == {}
    assert not there.take_over("r")
    assert here.others()
    with sessions() as db:
        db.execute(update(Server).where(Server.id == presence.id).values(seen=1.0))
        db.commit()
    assert there.orphans() == {"r": True}
    with sessions() as db:
        db.execute(update(RelayedRun).values(watched=1.0))
        db.commit()
    assert there.orphans() == {"r": False}
    assert there.take_over("r")
    assert not there.others()
    assert here.exchange({"r": None}, []).lost == {"r"}, "the dead server was only paused"


def test_a_released_run_is_free_at_once(pair: Pair) -> None:
    here, there, _ = pair
    here.release(["r"])
    assert there.orphans() == {"r": True}
    assert there.take_over("r")
    assert there.orphans() == {}
