"""The launcher that runs processes on this machine, each in its own session.

The separate session means that Ctrl-C in the server's terminal reaches only the server, which
then stops its runs in order, and that a run outlives a server that was killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from app.jobs.launchers import Cluster, Handle, Life, Resources
from app.jobs.launchers.commands import ATTEMPT, run_command
from sae.runs.folder import RunFolder
from sae.workspace.files import HOST, is_locked
from sae.workspace.paths import Workspace
from sae.workspace.priority import RUN, yield_processor

Command = Callable[[RunFolder], list[str]]

_FRESH_S = 10  # a heartbeat this young shows that a status is its process's


class LocalLauncher:
    """A launcher that starts `command(folder)` and appends its output to the folder's `log.txt`."""

    name, stops_with_server, settle_s = "local", True, 0.0

    def __init__(self, workspace: Workspace, command: Command = run_command) -> None:
        self.workspace, self.command = workspace, command
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, folder: RunFolder, attempt: int = 1, resources: Resources = Resources()) -> Handle:  # noqa: B008
        folder.path.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "SAESCOPE_HOME": str(self.workspace.root), "PYTHONUNBUFFERED": "1",
                       ATTEMPT: str(attempt)}
        with open(folder.log, "ab") as log:
            child = subprocess.Popen(
                self.command(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True)
        yield_processor(child.pid, RUN)
        self._children[child.pid] = child
        return Handle(self.name, str(child.pid), _with_host(start_mark(child.pid) or "", HOST))

    def life(self, handle: Handle) -> Life:
        if host_of(handle) != HOST:  # of a server on another machine; the run's folder tells whether it is alive
            return "unknown"
        return "running" if self.alive(handle) else "ended"

    def alive(self, handle: Handle) -> bool:
        """Return whether this process is still running, on this machine."""
        if host_of(handle) != HOST:
            return False
        pid = int(handle.ref)
        child = self._children.get(pid)
        if child is not None and child.poll() is not None:  # a child of this process; poll() also reaps it
            del self._children[pid]
            return False
        mark = start_mark(pid)
        if child is not None and mark is None:
            return True  # its main thread has ended and others have not; it cannot be collected yet
        return mark is not None and mark == handle.mark.partition("@")[0]

    def find(self, folder: RunFolder, attempt: int) -> Handle | None:
        status = folder.status()
        if status is None or status.pid is None:
            return None
        # A run holds its lock also when the clock has jumped; the heartbeat shows a process that has no lock yet.
        fresh = abs(time.time() - status.heartbeat) <= _FRESH_S
        if not (fresh or is_locked(folder.path / "lock")):
            return None
        if status.host not in ("", HOST):
            return Handle(self.name, str(status.pid), _with_host("", status.host))
        return self.handle_of(status.pid)

    def handle_of(self, pid: int) -> Handle | None:
        """Return the handle of the process with this id, or None if there is none."""
        mark = start_mark(pid)
        return None if mark is None else Handle(self.name, str(pid), _with_host(mark, HOST))

    def terminate(self, handle: Handle) -> None:
        self._signal(handle, signal.SIGTERM)

    def kill(self, handle: Handle) -> None:
        self._signal(handle, signal.SIGKILL)

    def room(self, resources: Resources) -> bool:
        return True

    def cluster(self) -> Cluster | None:
        return None

    def _signal(self, handle: Handle, number: signal.Signals) -> None:
        if self.alive(handle):
            pid = int(handle.ref)
            with suppress(ProcessLookupError, PermissionError):
                # A process from the command line may share its group with others, which must not get the signal.
                if os.getpgid(pid) == pid:
                    os.killpg(pid, number)
                else:
                    os.kill(pid, number)


def host_of(handle: Handle) -> str:
    """Return the machine whose process the handle names."""
    return handle.mark.partition("@")[2] or HOST


def _with_host(mark: str, host: str) -> str:
    return f"{mark}@{host[:50]}"


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
