"""Tests of a workspace that cannot be written: it is browsed, and whatever would write says so in one line."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from app.access.middleware import READ_ONLY
from app.db.engine import make_engine, make_session_factory
from app.db.tables import Run, User
from app.library.read_only import with_readable_database
from app.main import create_app
from app.settings import Settings
from app.web.storage_faults import storage_fault
from tests.unit.app.conftest import BATCH, write_sae

AGAIN = "read-only: nothing was stored. Try again in a moment."


def tree(home: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in home.rglob("*")}


@pytest.fixture
def forbidden(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings of a workspace with an SAE and a running run, whose folder refuses every probe."""
    write_sae(settings.workspace, BATCH)
    if not settings.database_url:
        with closing(sqlite3.connect(settings.workspace.database)) as db:
            db.execute("INSERT INTO users (name, is_admin, is_editor, created) VALUES ('ada', 1, 1, 0)")
            db.commit()

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    return settings


@pytest.fixture
def client(forbidden: Settings) -> Iterator[TestClient]:
    if forbidden.database_url:
        pytest.skip("a database server is not a part of the workspace")
    with TestClient(create_app(forbidden), follow_redirects=False) as client:
        yield client


def test_it_is_browsed_and_nothing_is_written(client: TestClient, forbidden: Settings) -> None:
    before = tree(forbidden.home)
    assert BATCH in client.get("/").text
    assert BATCH in client.get("/api/saes").text
    for path in (f"/{BATCH}", "/runs", "/login", "/steer", "/readyz", "/healthz", "/metrics"):
        assert client.get(path).status_code in (200, 404), path
    assert client.get("/readyz").json()["checks"]["workspace"] == "read-only"
    for path in ("/steer", "/api/steer", "/inspect", "/login", "/api/runs", "/admin/train"):
        answer = client.post(path, headers={"accept": "application/json"})
        assert (answer.status_code, answer.json()["error"]) == (503, READ_ONLY), path
    page = client.post("/login", data={"name": "ada"})
    assert READ_ONLY in page.text
    link = client.get("/login?token=guess")
    assert (link.status_code, f"The database is {AGAIN}" in link.text) == (503, True)
    assert tree(forbidden.home) == before


def test_its_database_is_read_with_its_log_and_refuses_writing(forbidden: Settings) -> None:
    if forbidden.database_url:
        pytest.skip("a database server is not a part of the workspace")
    with ExitStack() as stack:
        opened = with_readable_database(forbidden, stack)
        engine = make_engine(opened.url)
        with make_session_factory(engine)() as db:
            assert list(db.scalars(select(User.name))) == ["ada"]
            assert list(db.scalars(select(Run.id))) == []
            with pytest.raises(OperationalError) as caught:
                db.execute(text("DELETE FROM users"))
        engine.dispose()
        fault = storage_fault(caught.value)
        assert fault is not None
        assert (fault.status, fault.message) == (503, f"The database is {AGAIN}")
    assert not Path(opened.url.partition("file:")[2].partition("?")[0]).exists()


def test_a_workspace_without_a_database_is_browsed_too(client: TestClient, forbidden: Settings) -> None:
    forbidden.workspace.database.unlink()
    with TestClient(create_app(forbidden)) as other:
        assert BATCH in other.get("/").text
    assert not forbidden.workspace.database.exists()


def test_a_file_that_cannot_be_written_is_one_line() -> None:
    fault = storage_fault(OSError(errno.EROFS, "x", "/secret"))
    assert fault is not None
    assert (fault.status, fault.message) == (503, f"The workspace is {AGAIN}")
