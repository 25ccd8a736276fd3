"""Tests of the answers to faults of the disk and the database."""

from __future__ import annotations

import errno
import sqlite3

from fastapi.testclient import TestClient
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.main import create_app
from app.settings import Settings
from app.web.storage_faults import storage_fault


def operational(words: str) -> OperationalError:
    return OperationalError("x", {}, sqlite3.OperationalError(words))


def test_faults_of_the_program_stay_faults_of_the_program() -> None:
    for error in (FileNotFoundError(errno.ENOENT, "x"), ValueError("the disk is full"), operational("no such table: x"),
                  operational('near "SELEC": syntax error'), ProgrammingError("x", {}, Exception("wrong")),
                  IntegrityError("x", {}, Exception("UNIQUE constraint failed"))):
        assert storage_fault(error) is None


def test_each_fault_has_its_status() -> None:
    def status(error: BaseException) -> int:
        fault = storage_fault(error)
        assert fault is not None
        return fault.status

    assert status(OSError(errno.ENOSPC, "x")) == status(operational("database or disk is full")) == 507
    assert status(operational("database is locked")) == status(PoolTimeout("QueuePool limit")) == 503
    assert status(operational("server closed the connection unexpectedly")) == 503


def test_a_full_disk_is_a_page(settings: Settings) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/secret/place")

    app = create_app(settings, supervise=False)
    with TestClient(app) as client:
        app.state.catalog.list_saes = full
        answer = client.get("/api/saes")
        assert (answer.status_code, answer.json()["error"]) == (
            507, "The disk is full: nothing was stored. Free some space on the server, then try again.")
        assert "<h1>The disk is full</h1>" in client.get("/").text
        assert "secret" not in client.get("/").text
