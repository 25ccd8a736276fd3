"""Tests of the deletion of stored steering runs and inspections that are too old or too many."""

from __future__ import annotations

from app.db.engine import SessionFactory
from app.db.tables import Inspection, SteerRun
from app.library.retention import sweep

DAY = 86_400.0


def store(sessions: SessionFactory, ages: list[float], state: str = "succeeded") -> None:
    with sessions() as db:
        for age in ages:
            created = 1e9 - age * DAY
            db.add(SteerRun(id=f"s{age}", created=created, sae_id="demo/a", request={}, state=state))
            db.add(Inspection(id=f"i{age}", created=created, request={}))
        db.commit()


def left(sessions: SessionFactory) -> list[str]:
    with sessions() as db:
        return sorted(row.id for kind in (SteerRun, Inspection) for row in db.query(kind))


def test_the_old_ones_go(sessions: SessionFactory) -> None:
    store(sessions, [1, 9, 11, 400])
    assert sweep(sessions, keep_days=10, keep=100, now=1e9) == 4
    assert left(sessions) == ["i1", "i9", "s1", "s9"]


def test_all_but_the_newest_go(sessions: SessionFactory) -> None:
    store(sessions, [1, 2, 3, 4, 5])
    assert sweep(sessions, keep_days=10, keep=2, now=1e9) == 6
    assert left(sessions) == ["i1", "i2", "s1", "s2"]


def test_few_and_new_ones_stay(sessions: SessionFactory) -> None:
    store(sessions, [1, 2])
    assert sweep(sessions, keep_days=10, keep=2, now=1e9) == 0


def test_a_run_that_is_being_written_stays(sessions: SessionFactory) -> None:
    store(sessions, [400], "running")
    sweep(sessions, keep_days=10, keep=1, now=1e9)
    assert left(sessions) == ["s400"]
