"""Real servers for tests, which may kill them and whatever they started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.access import accounts, tokens
from app.db.engine import make_engine, make_session_factory, upgrade
from app.settings import Settings

FINAL = ("succeeded", "failed", "cancelled", "stopped")


@dataclass
class RunningServer:
    """A `saescope serve` that answers at `address`, and a client with an administrator's token."""

    process: subprocess.Popen[str]
    address: str
    client: httpx.Client

    def json(self, path: str) -> Any:
        answer = self.client.get(path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def leads(self) -> bool:
        return bool(self.client.get("/readyz").json()["checks"]["supervisor"] == "ok")

    def finished(self, path: str, seconds: float = 240) -> Any:
        """Wait until the run at this path has ended, and return it."""
        until(lambda: self.json(path)["state"] in FINAL, seconds)
        return self.json(path)

    def kill(self) -> None:
        """Kill the server alone: its runs go on, and its other processes end because it did."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill the server and close what this process has of it."""
        self.kill()
        self.client.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


_started: list[RunningServer] = []


def environment(home: Path, database_url: str = "", **more: str) -> dict[str, str]:
    return {**os.environ, "SAESCOPE_HOME": str(home), "DATABASE_URL": database_url, "PORT": "0",
            "SAESCOPE_DEMO": "false", "SAESCOPE_POLL_S": "0.1", "SAESCOPE_WORKER_THREADS": "1",
            "SAESCOPE_PAGE_WORKERS": "1", "SAESCOPE_STEERS_PER_MINUTE": "100000", **more}


def make_token(home: Path, database_url: str = "") -> str:
    """Make an administrator in the database, and return the secret of an API token for everything."""
    home.mkdir(parents=True, exist_ok=True)
    engine = make_engine(Settings.load(home=home, database_url=database_url).url)
    upgrade(engine)
    with make_session_factory(engine)() as db:
        user = accounts.set_password(db, "ada", "correct horse")
        secret = tokens.make_token(db, user, "tests", ["read", "write", "steer", "admin"], None)
    engine.dispose()
    return secret


SERVE = "from app.cli import main; main()"


def start(home: Path, token: str, database_url: str = "", program: str = SERVE, **more: str) -> RunningServer:
    """Start a server and wait until it answers."""
    with open(home / "serve.log", "a") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "serve"], stdout=subprocess.PIPE, stderr=log,
            env=environment(home, database_url, **more), text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    address = re.findall(r"http://\S+", said)
    assert address, f"the server did not start: {said}{(home / 'serve.log').read_text()[-2000:]}"
    client = httpx.Client(base_url=address[0], headers={"Authorization": f"Bearer {token}"}, timeout=120)
    server = RunningServer(process, address[0], client)
    _started.append(server)
    until(lambda: _answers(client), 120)
    return server


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False


@contextmanager
def nothing_left(home: Path) -> Iterator[None]:
    """Kill, at the end of the block, every process that works in this workspace."""
    try:
        yield
    finally:
        for server in _started:
            server.close()
        _started.clear()
        kill_each(processes(home))


def processes(home: Path, *words: str) -> list[psutil.Process]:
    """Return the processes of the workspace whose command line has all of these words."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if process.environ().get("SAESCOPE_HOME") == str(home) and all(word in line for word in words):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [process for process in found if process.pid != os.getpid()]


def kill_each(found: list[psutil.Process]) -> int:
    """Kill the processes and return how many there were."""
    for process in found:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue
    return len(found)


def until(holds: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something holds; fail if it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
