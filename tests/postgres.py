"""A temporary Postgres cluster for tests, on a Unix socket, where Postgres is installed.

`SAESCOPE_TEST_POSTGRES` names a database to use instead.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import make_url, text

from app.db.engine import make_engine

GIVEN = os.environ.get("SAESCOPE_TEST_POSTGRES", "")
_START_S = 60.0
# Nothing has to survive a crash of the machine, and nobody else may connect.
_OPTIONS = (
    "-c listen_addresses= -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200 "
    "-c shared_buffers=32MB -c autovacuum=off -c wal_level=minimal -c max_wal_senders=0")
# The cluster ends with the pipe to its parent, however the parent ends.
_SCRIPT = (
    'initdb=$0 postgres=$1 data=$2; options=$3; '
    '"$initdb" -D "$data" -U saescope -A trust -E UTF8 --locale=C --no-sync >"$data.log" 2>&1 || exit 1; '
    '"$postgres" -D "$data" -k "$data" $options >>"$data.log" 2>&1 & '
    'server=$!; cat; kill -INT $server; wait $server; rm -rf "$data"')


@cache
def programs() -> tuple[str, str] | None:
    """Return the paths of `initdb` and `postgres`, or None.  Debian keeps them outside the search path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    search = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    initdb, postgres = shutil.which("initdb", path=search), shutil.which("postgres", path=search)
    return (initdb, postgres) if initdb and postgres and find_spec("psycopg") else None


def available() -> bool:
    """Return whether tests can use a Postgres database."""
    return bool(GIVEN) or programs() is not None


def _owner() -> str | None:
    """Return the user who owns the cluster if this is root, as whom Postgres refuses to run."""
    if os.getuid() != 0:
        return None
    names = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def cluster() -> Iterator[str]:
    """Yield the address of an empty database whose user may make further ones."""
    if GIVEN:
        yield GIVEN
        return
    found = programs()
    assert found is not None
    owner = _owner()
    # A Unix socket's path must be short, and another user must be able to reach it.
    home = Path(tempfile.mkdtemp(prefix="saescope-pg-", dir="/tmp"))
    if owner:
        shutil.chown(home, owner)
    data = home / "data"
    process = subprocess.Popen(
        ["/bin/sh", "-c", _SCRIPT, *found, str(data), _OPTIONS], stdin=subprocess.PIPE, cwd=home, user=owner,
        start_new_session=True)
    assert process.stdin is not None
    address = f"postgresql://saescope@/postgres?host={data}"
    try:
        _wait(process, address, home / "data.log")
        yield address
    finally:
        process.stdin.close()
        process.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    engine = make_engine(address)
    while True:
        try:
            engine.connect().close()
            break
        except Exception:
            if process.poll() is not None or time.monotonic() > deadline:
                reason = log.read_text(errors="replace")[-500:] if log.exists() else ""
                raise AssertionError(f"Postgres did not start: {reason}") from None
        time.sleep(0.05)
    engine.dispose()


@contextmanager
def database(server: str, template: str = "template0") -> Iterator[str]:
    """Yield the address of a new database of the cluster, a copy of `template`, which is dropped at the end."""
    name = f"test_{uuid.uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield make_url(server).set(database=name).render_as_string(False)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: str, command: str) -> None:
    engine = make_engine(server)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(command))
    engine.dispose()
