"""Tests of runs as processes of this machine: started, found again, ended, never a zombie."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from app.jobs.launchers import Handle
from app.jobs.launchers.commands import run_command
from app.jobs.launchers.local import LocalLauncher, start_mark
from sae.runs.folder import RunFolder, Status
from sae.workspace.paths import Workspace
from sae.workspace.priority import RUN

# The main thread ends before another one, as it does while torch's threads end: the system then calls the process a
# zombie, but it cannot be collected yet.
LEADER_ENDS_FIRST = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's view of threads")
def test_a_process_whose_threads_outlive_its_main_thread_is_collected(workspace: Workspace) -> None:
    launcher = LocalLauncher(workspace, lambda _: [sys.executable, "-c", LEADER_ENDS_FIRST])
    folder = RunFolder(workspace.run("run-1"))
    handle = launcher.start(folder)
    deadline, seen = time.monotonic() + 60, False
    while launcher.alive(handle):
        assert time.monotonic() < deadline
        seen |= psutil.Process(int(handle.ref)).status() == psutil.STATUS_ZOMBIE
        time.sleep(0.01)
    assert seen, "its main thread ended first"
    assert not psutil.pid_exists(int(handle.ref))
    assert launcher._children == {}


SLEEP = "import time; print('begun', flush=True); time.sleep(60)"
GONE = 2**22 + 1  # above the largest process id of Linux


@pytest.fixture
def local(workspace: Workspace) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher(workspace, lambda folder: [sys.executable, "-c", SLEEP])
    yield launcher
    for child in list(launcher._children.values()):
        child.kill()
        child.wait()


def ended(launcher: LocalLauncher, handle: Handle) -> bool:
    deadline = time.monotonic() + 60
    while launcher.alive(handle):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return True


@pytest.mark.parametrize("way", ["terminate", "kill"])
def test_a_run_is_started_in_its_own_session_and_ended(local: LocalLauncher, workspace: Workspace, way: str) -> None:
    folder = RunFolder(workspace.run("run-1"))
    handle = local.start(folder)
    assert local.alive(handle)
    assert os.getsid(int(handle.ref)) == int(handle.ref), "Ctrl-C in the server's terminal does not reach it"
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, int(handle.ref)) == min(19, ours + RUN), "pages come first"
    getattr(local, way)(handle)
    assert ended(local, handle)
    assert local._children == {}


def test_output_is_appended_to_the_log_of_the_folder(workspace: Workspace) -> None:
    launcher = LocalLauncher(workspace, lambda folder: [
        sys.executable, "-c", "import os, sys; print(os.environ['SAESCOPE_HOME']); print('no', file=sys.stderr)"])
    folder = RunFolder(workspace.run("run-1"))
    folder.path.mkdir(parents=True)
    folder.log.write_text("before\n")
    assert ended(launcher, launcher.start(folder))
    assert folder.log.read_text().splitlines() == ["before", str(workspace.root), "no"]


def test_another_server_finds_the_process_again(local: LocalLauncher, workspace: Workspace) -> None:
    handle = local.start(RunFolder(workspace.run("run-1")))
    other = LocalLauncher(workspace)
    assert other.handle_of(int(handle.ref)) == handle
    assert other.alive(handle)
    assert other.handle_of(GONE) is None
    other.kill(handle)
    assert ended(local, handle)


def test_a_later_process_with_the_same_id_is_not_the_run(workspace: Workspace) -> None:
    launcher, mine = LocalLauncher(workspace), os.getpid()
    assert launcher.alive(Handle("local", str(mine), start_mark(mine) or ""))
    stranger = Handle("local", str(mine), "1.00")
    assert not launcher.alive(stranger)
    launcher.kill(stranger)  # which would end this test
    assert start_mark(GONE) is None


def test_the_command_resumes_a_folder(workspace: Workspace) -> None:
    folder = RunFolder(workspace.run("run-1"))
    assert run_command(folder) == [sys.executable, "-m", "sae", "run", "--quiet", str(folder.path)]


def test_a_process_of_another_machine_is_neither_judged_nor_touched(local: LocalLauncher, workspace: Workspace) -> None:
    folder = RunFolder(workspace.run("run-1"))
    handle = local.start(folder)
    assert local.life(handle) == "running"
    elsewhere = Handle("local", handle.ref, f"{handle.mark.partition('@')[0]}@another")
    assert local.life(elsewhere) == "unknown"
    local.kill(elsewhere)
    assert local.life(handle) == "running"
    assert local.life(Handle("local", handle.ref, handle.mark.partition("@")[0])) == "running", "of an earlier version"
    folder.write_status(Status(state="running", pid=int(handle.ref), host="another"))
    assert local.find(folder, 1) == Handle("local", handle.ref, "@another")
