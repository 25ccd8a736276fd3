"""Tests of the supervisor with real processes, which are really killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.db.engine import SessionFactory
from app.db.tables import Run
from app.jobs import queue
from app.jobs.folders import log_tail
from app.jobs.launchers.local import LocalLauncher
from app.jobs.supervisor import MAX_REQUEUES, Supervisor
from app.library.catalog import Catalog
from app.settings import Settings
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import fake_command, write_sae

Submit = Callable[..., str]


@pytest.fixture
def submit(sessions: SessionFactory, workspace: Workspace) -> Submit:
    def submit(**spec: object) -> str:
        with sessions() as db:
            return queue.enqueue(db, workspace, "train", spec).id

    return submit


def _get(sessions: SessionFactory, run_id: str) -> Run:
    with sessions() as db:
        return db.get_one(Run, run_id)


def _pid(run: Run) -> int:
    return int(run.ref or 0)


def _until(supervisor: Supervisor, reached: Callable[[], bool], seconds: float = 30) -> None:
    """Call `tick` until `reached()`."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "the state was never reached"
        supervisor.tick()
        time.sleep(0.01)


def _starts(workspace: Workspace, run_id: str) -> list[int]:
    """Return the step at which each process of the run began."""
    try:
        return [int(line) for line in (workspace.run(run_id) / "starts").read_text().split()]
    except FileNotFoundError:
        return []


@contextmanager
def _running(supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, run_id: str) -> Iterator[Run]:
    _until(supervisor, lambda: _get(sessions, run_id).state == "running" and bool(_starts(workspace, run_id)))
    yield _get(sessions, run_id)


def test_runs_succeed_one_after_another(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, submit: Submit
) -> None:
    first, second = submit(steps=2), submit(steps=2)
    states: list[tuple[str, str]] = []

    def done() -> bool:
        states.append((_get(sessions, first).state, _get(sessions, second).state))
        return states[-1] == ("succeeded", "succeeded")

    write_sae(workspace, "demo/fake")
    _until(supervisor, done)
    assert all(second == "queued" for first, second in states if first in ("queued", "starting", "running"))
    run = _get(sessions, first)
    assert (run.progress, run.sae_id, run.ref, run.error) == (1.0, "demo/fake", None, None)
    assert run.finished is not None
    assert run.started is not None
    assert supervisor.catalog.get_sae("demo/fake") is not None
    assert log_tail(RunFolder(workspace.run(first))) == ["fake run begins: well"]


def test_a_killed_run_resumes_from_its_checkpoint(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, submit: Submit
) -> None:
    run_id = submit(steps=30, step_s=0.02)
    _until(supervisor, lambda: _get(sessions, run_id).progress > 0.1)
    os.kill(_pid(_get(sessions, run_id)), signal.SIGKILL)
    _until(supervisor, lambda: _get(sessions, run_id).state == "succeeded")
    starts = _starts(workspace, run_id)
    assert len(starts) == 2
    assert starts[1] > starts[0] == 0
    assert _get(sessions, run_id).requeues == 1


def test_a_run_that_always_vanishes_fails_in_the_end(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, submit: Submit
) -> None:
    run_id = submit(behave="vanish")
    _until(supervisor, lambda: _get(sessions, run_id).state == "failed")
    assert len(log_tail(RunFolder(workspace.run(run_id)))) == MAX_REQUEUES + 1
    assert "fake run begins: vanish" in (_get(sessions, run_id).error or "")


def test_the_reason_of_a_failure_is_kept(supervisor: Supervisor, sessions: SessionFactory, submit: Submit) -> None:
    run_id = submit(behave="fail")
    _until(supervisor, lambda: _get(sessions, run_id).state == "failed")
    assert _get(sessions, run_id).error == "k: too large"


def test_cancel_then_resume(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, submit: Submit
) -> None:
    run_id = submit(steps=20, step_s=0.03)
    with _running(supervisor, sessions, workspace, run_id), sessions() as db:
        assert queue.cancel(db, workspace, run_id)
    _until(supervisor, lambda: _get(sessions, run_id).state == "cancelled")
    with sessions() as db:
        assert queue.resume(db, workspace, run_id)
    _until(supervisor, lambda: _get(sessions, run_id).state == "succeeded")
    assert len(_starts(workspace, run_id)) == 2


def test_a_run_that_ignores_requests_is_killed(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, launcher: LocalLauncher, submit: Submit
) -> None:
    run_id = submit(behave="stubborn", steps=100_000)
    with _running(supervisor, sessions, workspace, run_id) as run, sessions() as db:
        queue.cancel(db, workspace, run_id)
    _until(supervisor, lambda: _get(sessions, run_id).state == "cancelled")
    assert launcher.handle_of(_pid(run)) is None


def test_the_next_supervisor_adopts_a_running_process(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, submit: Submit, settings: Settings,
    catalog: Catalog,
) -> None:
    run_id = submit(steps=30, step_s=0.03)
    with _running(supervisor, sessions, workspace, run_id):
        pass
    heir = Supervisor(settings, sessions, LocalLauncher(workspace, fake_command), catalog)  # knows no children
    _until(heir, lambda: _get(sessions, run_id).state not in ("starting", "running") or not _alive(supervisor, run_id))
    _until(heir, lambda: _get(sessions, run_id).state == "succeeded")
    assert len(_starts(workspace, run_id)) == 1


def _alive(supervisor: Supervisor, run_id: str) -> bool:
    """Return whether the run's process is alive; the check also reaps an ended child of this test."""
    run = _get(supervisor.sessions, run_id)
    handle = supervisor.launcher.handle_of(_pid(run)) if run.ref else None
    return handle is not None and supervisor.launcher.alive(handle)


def test_a_process_whose_id_was_never_stored_is_adopted(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, submit: Submit
) -> None:
    run_id = submit(steps=30, step_s=0.03)
    with _running(supervisor, sessions, workspace, run_id), sessions() as db:
        queue.transition(db, run_id, queue.ACTIVE, state="starting", ref=None, ref_mark=None)
    _until(supervisor, lambda: _get(sessions, run_id).state == "succeeded")
    assert len(_starts(workspace, run_id)) == 1


def test_another_process_with_the_same_id_is_not_ours(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, submit: Submit, launcher: LocalLauncher
) -> None:
    run_id = submit(steps=2)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        with sessions() as db:
            claimed = queue.claim(db)
            assert claimed is not None
            queue.transition(
                db, run_id, queue.ACTIVE, state="running", ref=str(stranger.pid), ref_mark="another boot:1")
        _until(supervisor, lambda: _get(sessions, run_id).state == "succeeded")
        assert stranger.poll() is None
        stranger.kill()


def test_stopping_the_server_stops_runs_which_resume_later(
    settings: Settings, supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, catalog: Catalog,
    launcher: LocalLauncher, submit: Submit,
) -> None:
    run_id = submit(steps=25, step_s=0.03)
    supervisor.start()
    deadline = time.monotonic() + 30
    while not _get(sessions, run_id).progress and time.monotonic() < deadline:
        time.sleep(0.01)
    pid = int(_get(sessions, run_id).ref or 0)
    supervisor.stop()
    assert pid
    assert launcher.handle_of(pid) is None
    run = _get(sessions, run_id)
    assert (run.state, run.requeues, run.ref) == ("queued", 0, None)
    heir = Supervisor(settings, sessions, launcher, catalog)
    _until(heir, lambda: _get(sessions, run_id).state == "succeeded")
    starts = _starts(workspace, run_id)
    assert starts[1] > starts[0]


def test_stopping_kills_a_run_that_does_not_stop(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, launcher: LocalLauncher, submit: Submit
) -> None:
    supervisor.settings = supervisor.settings.model_copy(update={"shutdown_grace_s": 0.1})
    run_id = submit(behave="stubborn", steps=100_000)
    with _running(supervisor, sessions, workspace, run_id) as run:
        supervisor.stop()
    assert launcher.handle_of(_pid(run)) is None
    assert _get(sessions, run_id).state == "queued"


def test_a_deleted_folder_breaks_nothing(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, submit: Submit
) -> None:
    gone, other = submit(steps=1000, step_s=0.02), submit(steps=1)
    with _running(supervisor, sessions, workspace, gone) as run:
        os.kill(_pid(run), signal.SIGKILL)
        while _alive(supervisor, gone):
            time.sleep(0.01)
        shutil.rmtree(workspace.run(gone))
    _until(supervisor, lambda: _get(sessions, other).state == "succeeded")
    assert _get(sessions, gone).state == "failed"
    assert "deleted" in (_get(sessions, gone).error or "")


def test_a_run_that_cannot_be_started_has_failed(
    settings: Settings, sessions: SessionFactory, workspace: Workspace, catalog: Catalog, submit: Submit
) -> None:
    launcher = LocalLauncher(workspace, lambda _: [str(Path("/nonexistent/program"))])
    supervisor = Supervisor(settings, sessions, launcher, catalog)
    run_id = submit()
    _until(supervisor, lambda: _get(sessions, run_id).state == "failed")
    assert "could not be started" in (_get(sessions, run_id).error or "")


class Lease:
    """A lease that a test gives and takes."""

    held = False

    def leads(self) -> bool:
        return self.held


def test_only_the_leader_starts_watches_and_stops_runs(
    settings: Settings, sessions: SessionFactory, launcher: LocalLauncher, catalog: Catalog, submit: Submit
) -> None:
    first, second = Lease(), Lease()
    here, there = (Supervisor(settings, sessions, launcher, catalog, leadership=lease) for lease in (first, second))
    run_id = submit(steps=10_000)
    here.tick()
    assert _get(sessions, run_id).state == "queued"
    first.held = True
    _until(here, lambda: _get(sessions, run_id).state == "running")
    there.stop()  # leaves the runs of the leader alone
    assert _get(sessions, run_id).state == "running"
    pid, first.held, second.held = _pid(_get(sessions, run_id)), False, True
    here.tick()
    there.tick()
    assert (_get(sessions, run_id).state, _pid(_get(sessions, run_id))) == ("running", pid), "taken over as it is"
    there._stopping.clear()
    here.stop()
    assert _get(sessions, run_id).state == "running"
    there.stop()
    assert _get(sessions, run_id).state == "queued"


def test_a_run_of_a_dead_machine_resumes_here(
    supervisor: Supervisor, sessions: SessionFactory, workspace: Workspace, submit: Submit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = submit(steps=10_000)
    _until(supervisor, lambda: _get(sessions, run_id).state == "running")
    os.killpg(_pid(_get(sessions, run_id)), signal.SIGKILL)
    with sessions() as db:
        run = db.get_one(Run, run_id)
        run.ref_mark = "1.00@another"
        db.commit()
    supervisor.tick()
    assert _get(sessions, run_id).state == "running", "it may be alive there"
    monkeypatch.setattr("app.jobs.supervisor.SILENT_HERE_S", 0.0)
    _until(supervisor, lambda: _get(sessions, run_id).attempt == 2)
    with sessions() as db:
        queue.cancel(db, workspace, run_id)
    _until(supervisor, lambda: _get(sessions, run_id).state == "cancelled")
