"""Tests of `saescope serve` and `create-admin` with a real server process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from app.access.accounts import check_password
from app.cli import _listen, app
from app.db.engine import SessionFactory
from app.db.tables import User
from app.library import labels
from sae.errors import UserError
from sae.workspace.files import write_json
from tests.unit.app.conftest import sae_config

COMMAND = [sys.executable, "-c", "from app.cli import main; main()"]


def _environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "SAESCOPE_HOME": str(home), "PYTHONPATH": os.getcwd(), **more}


def _run(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], env=_environment(home, **more), capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def home(settings: object, tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_serve_prints_where_it_is_and_stops_cleanly(home: Path) -> None:
    server = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", "--no-demo"], env=_environment(home, SAESCOPE_PAGE_WORKERS="1"), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        link = server.stdout.readline().split()[-1]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        _until_it_answers(address)
        with httpx.Client() as browser:
            assert browser.get(link).headers["location"] == "/admin"
            assert browser.get(f"{address}/admin").status_code == 200

        second = _run(home, "serve", "--port", "0", "--no-demo")
        assert second.returncode == 2
        assert re.fullmatch(r"error: the workspace .* is in use by a saescope server \(process .*\n", second.stderr)
        taken = _run(home / "other", "serve", "--port", address.rpartition(":")[2], "--no-demo")
        assert taken.returncode == 2
        assert re.fullmatch(r"error: cannot listen on .*\n", taken.stderr)

        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0
    assert "Traceback" not in err
    assert "leaked" not in err  # DuckDB's binding would print it
    assert out.endswith("saescope has stopped; interrupted runs resume at the next start.\n")


def test_page_workers_end_with_the_server_even_if_it_is_killed(home: Path) -> None:
    server = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", "--no-demo"], env=_environment(home, SAESCOPE_PAGE_WORKERS="2"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    page_workers: list[int] = []
    try:
        deadline = time.monotonic() + 60
        while len(page_workers) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            page_workers = [int(pid) for pid in children if b"app.page_workers.process" in _command(int(pid))]
    finally:
        server.kill()
        server.wait()
    assert len(page_workers) == 2
    deadline = time.monotonic() + 60
    while any(b"app.page_workers" in _command(pid) for pid in page_workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_connections_send_small_packets_at_once() -> None:
    """Check the protocol, by which asyncio decides whether to set TCP_NODELAY on a connection."""
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def _until_it_answers(address: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_create_admin(home: Path, database_url: str, sessions: SessionFactory) -> None:
    made = _run(
        home, "create-admin", "--name", "ada", SAESCOPE_ADMIN_PASSWORD="correct horse", DATABASE_URL=database_url)
    assert (made.returncode, made.stderr) == (0, "")
    with sessions() as db:
        assert check_password(db, "ada", "correct horse") is not None
    refused = _run(home, "create-admin", "--name", "eve", "--password", "short", DATABASE_URL=database_url)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: password: use 8 to 1,000 characters\n"
    with sessions() as db:
        assert list(db.scalars(select(User.name))) == ["ada"]


@pytest.mark.parametrize(("name", "value", "words"), [
    ("PORT", "many", "PORT: "), ("DATABASE_URL", "nonsense", "DATABASE_URL"),
])
def test_a_wrong_setting_is_one_line(home: Path, name: str, value: str, words: str) -> None:
    answer = _run(home, "serve", **{name: value})
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ")
    assert words in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_delete_and_rename(home: Path, database_url: str, sessions: SessionFactory) -> None:
    for name in ("one", "two"):
        write_json(home / "saes" / "demo" / name / "sae.json", sae_config(f"demo/{name}"))
    with sessions() as db:
        labels.save(db, "demo/one", 3, "ada", text="braces")

    def run(*words: str) -> tuple[int, str]:
        """Run a command in this process."""
        environment = {"SAESCOPE_HOME": str(home), "DATABASE_URL": database_url}
        done = CliRunner().invoke(app, list(words), env=environment)
        if isinstance(done.exception, UserError):  # `main` prints it
            return 2, f"error: {done.exception}\n"
        return done.exit_code, done.output

    assert run("rename", "demo/one", "two") == (
        2, "error: name: demo/two already exists, or a run is making it; choose another name\n")
    assert run("rename", "demo/none", "x")[0] == 2
    assert run("rename", "demo/one", "demo/best") == (0, "demo/one is now demo/best.\n")
    code, said = run("delete", "demo/best")  # nobody answers the question
    assert code == 1
    assert "0 builds, 0 comparisons, 1 labelled latents, 0.0 MB" in said
    assert run("delete", "demo/best", "--yes")[0] == 0
    assert sorted(path.name for path in home.glob("saes/demo/*")) == ["two"]
    assert run("delete", "demo/best", "--yes") == (2, f"error: sae: there is no SAE demo/best in {home}\n")
