"""Runs and commands that start in milliseconds because a process that has imported torch forks them.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from app.jobs.launchers import Handle, Resources
from app.jobs.launchers.commands import ATTEMPT
from app.jobs.launchers.local import LocalLauncher
from app.worker.protocol import socket_path
from sae.runs.folder import RunFolder

_PROGRAM = "from tests.forked_runs import fork_runs; fork_runs()"


def _address(home: Path) -> Path:
    """Return the file that holds the path of the socket, which may be too long to be in the workspace."""
    return home / "forks"


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

    often = True  # the runs save far more often than real ones

    def start(self, folder: RunFolder, attempt: int = 1, resources: Resources = Resources()) -> Handle:  # noqa: B008
        wanted = {"folder": str(folder.path), "attempt": attempt, "often": self.often}
        with _asked(self.workspace.root, wanted) as answer:
            pid = int(next(answer))
        return self.handle_of(pid) or Handle(self.name, str(pid), "ended")


class PlainForkLauncher(ForkLauncher):
    """The launcher whose runs save as often as real ones."""

    often = False


def serve() -> None:
    """Be `saescope serve`, with runs that are forked, which soon finds SAEs that others made."""
    from app import main as program
    from app.cli import main
    from app.jobs import supervisor

    program.LocalLauncher = PlainForkLauncher  # type: ignore[misc]
    supervisor.SYNC_S = 0.5
    main()


def carry_out(home: Path, commands: Sequence[Sequence[str]]) -> None:
    """Carry out commands of `saescope` in one process that the workspace's `ForkServer` forks; fail if one fails."""
    with _asked(home, {"commands": commands}) as answer:
        assert "done\n" in answer, (home / "forks.log").read_text()[-2000:]


@contextmanager
def _asked(home: Path, wanted: dict[str, Any]) -> Iterator[Iterator[str]]:
    """Ask the `ForkServer` of a workspace, and yield the lines of its answer, of which the first is the new process."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(280)  # of each line
        connection.connect(_address(home).read_text())
        connection.sendall(json.dumps(wanted).encode() + b"\n")
        with connection.makefile() as answer:
            yield answer


def fork_runs() -> None:
    """Fork a run for each request at the socket of the workspace."""
    from tests.runs import PRELOAD

    for name in PRELOAD:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended runs leave no zombies
    listener = socket.socket(socket.AF_UNIX)
    home = Path(os.environ["SAESCOPE_HOME"])
    address = socket_path(home)
    listener.bind(str(address))
    listener.listen()
    _address(home).write_text(str(address))
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
                _be(_commands(wanted, connection) if "commands" in wanted else _run(wanted, connection))
            try:
                connection.sendall(b"%d\n" % pid)
            except OSError:
                continue


def _be(process: Callable[[], None]) -> None:
    """Do what the forked process is for, and end it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    try:
        process()
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # not what the process that forks does at its end


def _commands(wanted: dict[str, Any], connection: socket.socket) -> Callable[[], None]:
    def carry_out() -> None:
        from sae.cli.main import app

        os.dup2(2, 1)
        for words in wanted["commands"]:
            assert not app(words, standalone_mode=False), words
        connection.sendall(b"done\n")

    return carry_out


def _run(wanted: dict[str, Any], connection: socket.socket) -> Callable[[], None]:
    def run() -> None:
        from sae.cli.main import main
        from tests.runs import save_often

        connection.close()
        os.environ[ATTEMPT] = str(wanted["attempt"])
        log = os.open(os.path.join(wanted["folder"], "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["saescope", "run", "--quiet", wanted["folder"]]
        (save_often if wanted["often"] else main)()

    return run
