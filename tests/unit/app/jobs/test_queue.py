"""Tests of the queue: each transition happens once, and only from the states that allow it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.db.engine import SessionFactory
from app.db.tables import Run
from app.jobs import queue
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace


def _enqueue(sessions: SessionFactory, workspace: Workspace) -> str:
    with sessions() as db:
        return queue.enqueue(db, workspace, "train", {"steps": 1}).id


def test_enqueue_freezes_the_spec(sessions: SessionFactory, workspace: Workspace) -> None:
    run_id = _enqueue(sessions, workspace)
    assert RunFolder(workspace.run(run_id)).spec() == ("train", {"steps": 1})


def test_oldest_first(sessions: SessionFactory, workspace: Workspace) -> None:
    ids = [_enqueue(sessions, workspace) for _ in range(3)]
    with sessions() as db:
        claimed = [run.id for run in iter(lambda: queue.claim(db), None)]
    assert claimed == ids


def test_many_claimers_share_out_the_runs(sessions: SessionFactory, workspace: Workspace) -> None:
    ids = {_enqueue(sessions, workspace) for _ in range(6)}

    def claim_all(_: int) -> list[str]:
        with sessions() as db:
            return [run.id for run in iter(lambda: queue.claim(db), None)]

    with ThreadPoolExecutor(4) as pool:
        claimed = [run_id for part in pool.map(claim_all, range(4)) for run_id in part]
    assert sorted(claimed) == sorted(ids)


@pytest.mark.parametrize("state", ["queued", "starting", "running", "succeeded", "failed", "cancelled", "lost"])
def test_what_each_state_allows(sessions: SessionFactory, workspace: Workspace, state: str) -> None:
    def fresh() -> str:
        run_id = _enqueue(sessions, workspace)
        with sessions() as db:
            queue.transition(db, run_id, {"queued"}, state=state)
        return run_id

    with sessions() as db:
        cancelled = fresh()
        assert queue.cancel(db, workspace, cancelled) is (state in ("queued", "starting", "running"))
        asked = RunFolder(workspace.run(cancelled)).cancel_requested()
        assert asked is (state in ("starting", "running"))
        assert queue.resume(db, workspace, fresh()) is (state in ("failed", "cancelled", "lost"))
        deleted = fresh()
        gone = state not in ("starting", "running")
        assert queue.delete(db, workspace, deleted) is gone
        assert (db.get(Run, deleted) is None) is gone
        assert workspace.run(deleted).exists() is not gone


def test_a_second_click_changes_nothing(sessions: SessionFactory, workspace: Workspace) -> None:
    run_id = _enqueue(sessions, workspace)
    with sessions() as db:
        assert queue.cancel(db, workspace, run_id)
        assert not queue.cancel(db, workspace, run_id)
        assert queue.resume(db, workspace, run_id)
        assert not queue.resume(db, workspace, run_id)
        assert queue.delete(db, workspace, run_id)
        assert not queue.delete(db, workspace, run_id)


def test_a_form_that_is_sent_twice_starts_one_run(sessions: SessionFactory, workspace: Workspace) -> None:
    def send(key: str) -> str:
        with sessions() as db:
            return queue.enqueue(db, workspace, "train", {}, form_key=key).id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(send, ["form-1"] * 8))) == 1
    assert send("form-2") != send("form-1")
    assert send("") != send("")


def test_lost_runs_are_queued_again(sessions: SessionFactory, workspace: Workspace) -> None:
    run_id = _enqueue(sessions, workspace)
    with sessions() as db:
        queue.transition(db, run_id, {"queued"}, state="lost")
        assert queue.recover(db) == 1
        assert db.get_one(Run, run_id, populate_existing=True).state == "queued"
