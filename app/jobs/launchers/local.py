"""Runs as processes of this machine, each in a session of its own.

A session of its own means that Ctrl-C in the server's terminal reaches the server alone, which
then stops its runs in order; and that a run outlives a server that was killed.
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
    """The command that runs, or goes on with, a folder."""
    return [sys.executable, "-m", "sae", "run", "--quiet", str(folder.path)]


class LocalLauncher:
    """Starts `command(folder)`; its output is appended to the folder's `log.txt`."""

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
        if child is not None and child.poll() is not None:  # ours: poll() also clears the ended process away
            del self._children[handle.pid]
            return False
        mark = start_mark(handle.pid)
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
                # A process of the command line leads no group of its own; its group is the shell's affair.
                if os.getpgid(handle.pid) == handle.pid:
                    os.killpg(handle.pid, number)
                else:
                    os.kill(handle.pid, number)


def start_mark(pid: int) -> str | None:
    """Return when the process began, as seconds since the machine was started; None if there is no such process.

    Both times are read from the same clock, so that setting it changes nothing.  A process that ended but was not yet
    collected by its parent counts as gone.
    """
    try:
        process = psutil.Process(pid)
        mark = f"{process.create_time() - psutil.boot_time():.2f}"
        return None if process.status() == psutil.STATUS_ZOMBIE else mark
    except psutil.Error:
        return None
