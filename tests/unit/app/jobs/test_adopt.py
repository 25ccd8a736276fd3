"""Tests of run folders from the command line: they are listed and watched, but the server does not end them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from app.db.engine import SessionFactory
from app.db.tables import Run
from app.jobs import queue
from app.jobs.adopt import COMMAND_LINE, adopt_folders
from app.jobs.launchers.local import LocalLauncher
from app.jobs.supervisor import Supervisor
from sae.runs.folder import RunFolder, Status
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import fake_command


def _adopt(sessions: SessionFactory, workspace: Workspace, launcher: LocalLauncher) -> list[str]:
    with sessions() as db:
        return adopt_folders(db, workspace, launcher)


def _get(sessions: SessionFactory, run_id: str) -> Run:
    with sessions() as db:
        return db.get_one(Run, run_id)


@pytest.mark.parametrize(("state", "expected"), [
    ("succeeded", "succeeded"), ("failed", "failed"), ("cancelled", "cancelled"),
    ("interrupted", "cancelled"), ("running", "cancelled"),  # says it runs, but its process is gone
])
def test_ended_runs(
    sessions: SessionFactory, workspace: Workspace, launcher: LocalLauncher, state: str, expected: str
) -> None:
    folder = RunFolder(workspace.run("train-1"))
    folder.create("train", {})
    folder.write_status(Status(state=state, pid=2**22 + 1, overall=0.4, result={"sae": "demo/x"}))
    assert _adopt(sessions, workspace, launcher) == ["train-1"]
    assert _adopt(sessions, workspace, launcher) == []
    run = _get(sessions, "train-1")
    assert (run.state, run.progress, run.sae_id, run.requested_by) == (expected, 0.4, "demo/x", COMMAND_LINE)


def test_a_folder_that_is_no_run_or_just_starts_is_left_alone(
    sessions: SessionFactory, workspace: Workspace, launcher: LocalLauncher
) -> None:
    RunFolder(workspace.run("begins")).create("train", {})
    for name, text in (("torn", "{"), ("list", "[]"), ("other", '{"kind": "bake", "spec": {}}')):
        workspace.run(name).mkdir(parents=True)
        (workspace.run(name) / "spec.json").write_text(text)
    assert _adopt(sessions, workspace, launcher) == []


def test_a_live_run_is_watched_but_not_stopped_with_the_server_nor_started_again(
    sessions: SessionFactory, workspace: Workspace, launcher: LocalLauncher, supervisor: Supervisor
) -> None:
    folder = RunFolder(workspace.run("train-1"))
    folder.create("train", {"steps": 100_000})
    with subprocess.Popen(fake_command(folder), stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while folder.status() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _adopt(sessions, workspace, launcher) == ["train-1"]
        assert _get(sessions, "train-1").state == "running"
        supervisor.tick()
        supervisor.stop()
        assert process.poll() is None
        process.kill()
        process.wait()
    supervisor.tick()
    assert _get(sessions, "train-1").state == "cancelled"
    with sessions() as db:
        assert queue.resume(db, workspace, "train-1", "ada")
        run = db.get_one(Run, "train-1", populate_existing=True)
        assert (run.state, run.requested_by) == ("queued", "ada")


def test_cancelling_reaches_a_process_without_its_own_group(
    sessions: SessionFactory, workspace: Workspace, launcher: LocalLauncher
) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        handle = launcher.handle_of(process.pid)
        assert handle is not None
        assert os.getpgid(process.pid) == os.getpgid(0)  # a signal to that group would end the tests
        launcher.terminate(handle)
        assert process.wait(30) != 0
