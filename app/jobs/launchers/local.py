"""The launcher that runs processes on this machine, each in its own session.

The separate session means that Ctrl-C in the server's terminal reaches only the server, which
then stops its runs in order, and that a run outlives a server that was killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import psutil

from app.jobs.launchers import Handle
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace

Command = Callable[[RunFolder], list[str]]


def run_command(folder: RunFolder) -> list[str]:
    """Return the command that executes or resumes a run folder."""
    return [sys.executable, "-m", "sae", "run", "--quiet", str(folder.path)]


class LocalLauncher:
    """A launcher that starts `command(folder)` and appends its output to the folder's `log.txt`."""

    def __init__(self, workspace: Workspace, command: Command = run_command) -> None:
        self.workspace, self.command = workspace, command
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, folder: RunFolder) -> Handle:
        folder.path.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "SAESCOPE_HOME": str(self.workspace.root), "PYTHONUNBUFFERED": "1"}
        with open(folder.log, "ab") as log:
            child = subprocess.Popen(
                self.command(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True)
        self._children[child.pid] = child
        return Handle(child.pid, start_mark(child.pid) or "")

    def alive(self, handle: Handle) -> bool:
        child = self._children.get(handle.pid)
        if child is not None and child.poll() is not None:  # a child of this process; poll() also reaps it
            del self._children[handle.pid]
            return False
        mark = start_mark(handle.pid)
        if child is not None and mark is None:
            return True  # its main thread has ended and others have not; it cannot be collected yet
        return mark is not None and mark == handle.started

    def find(self, pid: int) -> Handle | None:
        mark = start_mark(pid)
        return None if mark is None else Handle(pid, mark)

    def terminate(self, handle: Handle) -> None:
        self._signal(handle, signal.SIGTERM)

    def kill(self, handle: Handle) -> None:
        self._signal(handle, signal.SIGKILL)

    def _signal(self, handle: Handle, number: signal.Signals) -> None:
        if self.alive(handle):
            with suppress(ProcessLookupError, PermissionError):
                # A process from the command line may share its group with others, which must not get the signal.
                if os.getpgid(handle.pid) == handle.pid:
                    os.killpg(handle.pid, number)
                else:
                    os.kill(handle.pid, number)


def start_mark(pid: int) -> str | None:
    """Return the process's start as seconds since the machine booted, or None if there is no such process.

    Both times come from the same clock, so setting the clock changes nothing.  A zombie counts as gone.
    """
    try:
        process = psutil.Process(pid)
        mark = f"{process.create_time() - psutil.boot_time():.2f}"
        return None if process.status() == psutil.STATUS_ZOMBIE else mark
    except psutil.Error:
        return None
