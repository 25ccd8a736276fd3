"""Runs as processes: none stays behind as a zombie."""

from __future__ import annotations

import sys
import time

import psutil
import pytest

from app.jobs.launchers.local import LocalLauncher
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace

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
        seen |= psutil.Process(handle.pid).status() == psutil.STATUS_ZOMBIE
        time.sleep(0.01)
    assert seen, "its main thread ended first"
    assert not psutil.pid_exists(handle.pid)
    assert launcher._children == {}
