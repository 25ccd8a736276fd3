"""Tests of a clock that is set while the program runs: no run is killed, lost or started twice, and nothing deleted."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from app.db.engine import SessionFactory
from app.db.people_tables import AuditEntry
from app.db.tables import Run
from app.jobs import queue
from app.jobs.launchers import Handle, Life
from app.jobs.launchers.local import LocalLauncher
from app.jobs.supervisor import Supervisor
from app.library.retention import AWAY_S, DISTRUST_S, JUMP_S, Clock, keep_sweeping
from app.library.uploads import KEEP_S
from app.settings import Settings
from sae.runs.folder import RunFolder, Status
from sae.workspace.files import lock
from sae.workspace.paths import Workspace

HOURS = 36_000.0


class Watched(LocalLauncher):
    """A launcher whose runs always go on; it notes which signals they get."""

    sent: list[str]

    def life(self, handle: Handle) -> Life:
        return "running"

    def terminate(self, handle: Handle) -> None:
        self.sent.append("TERM")

    def kill(self, handle: Handle) -> None:
        self.sent.append("KILL")


@pytest.fixture
def watched(workspace: Workspace, supervisor: Supervisor) -> Watched:
    launcher = Watched(workspace)
    launcher.sent = []
    supervisor.launchers["local"] = launcher
    return launcher


def make_run(sessions: SessionFactory, workspace: Workspace, status: Status | None, **values: object) -> Run:
    run = Run(id="train-1", kind="train", spec={}, state="running", requested_by="ada", attempt=1, ref="1", **values)
    with sessions() as db:
        db.add(run)
        db.commit()
    folder = RunFolder(workspace.run("train-1"))
    folder.create("train", {})
    if status is not None:
        folder.write_status(status)
    return run


def test_a_cancelled_run_keeps_its_time_to_stop(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, watched: Watched
) -> None:
    run = make_run(sessions, workspace, None, cancel_asked=time.time() - HOURS)
    grace = supervisor.settings.cancel_grace_s
    supervisor._watch(run)
    assert (watched.sent, RunFolder(workspace.run(run.id)).cancel_requested()) == ([], True)
    time.sleep(1.2 * grace)
    supervisor._watch(run)
    time.sleep(1.2 * grace)
    supervisor._watch(run)
    assert watched.sent == ["TERM", "KILL"]


def test_a_run_that_has_just_finished_may_end_its_process(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run(sessions, workspace, Status(state="succeeded", attempt=1))
    later = time.time() + HOURS
    monkeypatch.setattr(time, "time", lambda: later)
    supervisor._watch(run)
    assert watched.sent == []


@pytest.mark.parametrize("jump", [HOURS, -HOURS])
def test_a_busy_process_is_found_by_its_lock(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    launcher, folder = LocalLauncher(workspace), RunFolder(workspace.run("train-1"))
    folder.create("train", {})
    folder.write_status(Status(state="running", pid=os.getpid()))
    assert launcher.find(folder, 1) is not None
    now = time.time() + jump
    monkeypatch.setattr(time, "time", lambda: now)
    assert launcher.find(folder, 1) is None
    with lock(folder.path / "lock"):
        assert launcher.find(folder, 1) == launcher.handle_of(os.getpid())


def test_nothing_is_deleted_for_its_age_after_a_jump(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    now, steady = time.time(), time.monotonic()
    clock = Clock(tmp_path)
    assert clock.steady()
    monkeypatch.setattr(time, "time", lambda: now + HOURS)
    assert not clock.steady()
    assert "nothing is deleted because of its age for a day" in caplog.text
    assert not clock.steady()
    monkeypatch.setattr(time, "monotonic", lambda: steady + DISTRUST_S + 60)
    monkeypatch.setattr(time, "time", lambda: now + HOURS + DISTRUST_S + 60)
    assert clock.steady()


@pytest.mark.parametrize("jump", [AWAY_S + 60, -JUMP_S - 60])
def test_nothing_is_deleted_for_its_age_if_the_clock_is_wrong_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, jump: float
) -> None:
    now = time.time()
    assert Clock(tmp_path).steady()
    assert Clock(tmp_path).steady(), "a restart is no reason for distrust"
    monkeypatch.setattr(time, "time", lambda: now + jump)
    assert not Clock(tmp_path).steady()
    assert "days from the last time that the server ran" in caplog.text
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert Clock(tmp_path).steady(), "the wrong clock left no mark"


async def _one_sweep(sessions: SessionFactory, settings: Settings) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(keep_sweeping(sessions, settings), 1.0)


@pytest.mark.parametrize("right", [True, False])
def test_the_audit_log_and_uploads_are_swept_only_by_a_clock_that_is_right(
    sessions: SessionFactory, settings: Settings, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    old = settings.home / "uploads" / "0123"
    old.mkdir(parents=True)
    os.utime(old, (time.time() - KEEP_S - 9,) * 2)
    with sessions() as db:
        db.add(AuditEntry(at=0.0, user="ada", action="Delete", path="/", detail=""))
        db.commit()
    if not right:
        monkeypatch.setattr(Clock, "steady", lambda self: False)
    asyncio.run(_one_sweep(sessions, settings))
    with sessions() as db:
        assert (db.query(AuditEntry).count() == 0) == right
    assert old.exists() != right


def test_a_new_build_is_the_last_one_although_the_clock_was_set_back(
    workspace: Workspace, sessions: SessionFactory
) -> None:
    assert workspace.new_run_id("train")[:7] == "train-2"
    for name in ("index-20990131-235959-0123abcd", "my-own-name", "index-20260101-000000-0123abcd"):
        workspace.run(name).mkdir(parents=True)
    assert workspace.new_run_id("index").startswith("index-20990201-000000-")
    with sessions() as db:
        assert queue.enqueue(db, workspace, "train", {}, "ada").id.startswith("train-20990201-000000-")
    workspace.run("index-99999999-999999-x").mkdir()  # no time at all
    assert workspace.new_run_id("index")[:8] == "index-20"
