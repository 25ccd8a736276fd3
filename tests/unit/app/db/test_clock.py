"""Tests of the database's clock and of tasks that one server does at a time."""

from __future__ import annotations

import threading
import time

from sqlalchemy import select

from app.db.clock import clock, one_at_a_time, shared_by_servers
from app.db.engine import SessionFactory


def test_the_clock_is_the_time_and_goes_on_within_a_transaction(sessions: SessionFactory) -> None:
    with sessions() as db:
        first = db.scalar(select(clock(db))) or 0.0
        assert abs(first - time.time()) < 60
        time.sleep(0.01)
        assert (db.scalar(select(clock(db))) or 0.0) > first


def test_a_task_waits_for_another_server_that_does_it(sessions: SessionFactory) -> None:
    begun, done = threading.Event(), threading.Event()

    def also() -> None:
        with sessions() as db:
            begun.set()
            one_at_a_time(db, "x")
            done.set()

    with sessions() as db:
        shared = shared_by_servers(db.get_bind())  # type: ignore[arg-type]
        one_at_a_time(db, "x")
        with sessions() as other:
            one_at_a_time(other, "another task")
        thread = threading.Thread(target=also)
        thread.start()
        begun.wait(30)
        assert done.wait(0.2 if shared else 30) != shared
        db.rollback()
    thread.join(30)
    assert done.is_set()
