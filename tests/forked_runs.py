"""Runs that start in milliseconds because a process that has imported torch forks them.

The process outlives the servers that ask it, so a server that was killed leaves its runs as a real one does.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from app.jobs.launchers import Handle, Resources
from app.jobs.launchers.commands import ATTEMPT
from app.jobs.launchers.local import LocalLauncher
from sae.runs.folder import RunFolder

_PROGRAM = "from tests.forked_runs import fork_runs; fork_runs()"


def _address(home: Path) -> str:
    return str(home / "forks")


class ForkServer:
    """A process that forks the runs of one workspace."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        with open(home / "forks.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, stderr=log,
                env={**os.environ, "SAESCOPE_HOME": str(home), "OMP_NUM_THREADS": "1"})
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", (home / "forks.log").read_text()

    def runs(self, age_s: float) -> list[psutil.Process]:
        """Return the processes of the runs that have been running for longer."""
        found = []
        for process in psutil.Process(self._process.pid).children():
            with suppress(psutil.Error):
                if time.time() - process.create_time() > age_s:
                    found.append(process)
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class ForkLauncher(LocalLauncher):
    """The launcher on this machine, except that a `ForkServer` starts the processes."""

    def start(self, folder: RunFolder, attempt: int = 1, resources: Resources = Resources()) -> Handle:  # noqa: B008
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(_address(self.workspace.root))
            connection.sendall(json.dumps({"folder": str(folder.path), "attempt": attempt}).encode() + b"\n")
            pid = int(connection.makefile().readline())
        return self.handle_of(pid) or Handle(self.name, str(pid), "ended")


def fork_runs() -> None:
    """Fork a run for each request at the socket of the workspace."""
    from tests.runs import PRELOAD

    for name in PRELOAD:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended runs leave no zombies
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(_address(Path(os.environ["SAESCOPE_HOME"])))
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            wanted = json.loads(connection.makefile().readline() or "null")
            if wanted is None:  # the server that asked was killed
                continue
            pid = os.fork()
            if pid == 0:
                listener.close()
                connection.close()
                _be_a_run(wanted)
            try:
                connection.sendall(b"%d\n" % pid)
            except OSError:
                continue


def _be_a_run(wanted: dict[str, Any]) -> None:
    from tests.runs import save_often

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.environ[ATTEMPT] = str(wanted["attempt"])
    log = os.open(os.path.join(wanted["folder"], "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["saescope", "run", "--quiet", wanted["folder"]]
    try:
        save_often()
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # not what the process that forks does at its end
