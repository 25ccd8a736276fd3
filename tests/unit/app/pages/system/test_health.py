"""Tests of health, readiness and metrics."""

from __future__ import annotations

from collections import namedtuple

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.pages.system import health


def test_health_readiness_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["checks"] == {
        "database": "ok", "workspace": "ok", "disk": "ok", "worker": "ok", "supervisor": "ok"}
    client.get("/api/runs/none")
    measures = client.get("/metrics").text
    assert 'route="/api/runs/{run_id}",status="404"' in measures
    assert "saescope_saes 0.0" in measures


def not_ready(client: TestClient) -> dict[str, str]:
    """Return the checks that have failed; the answer must say that the server is not ready."""
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
    return {name: value for name, value in answer.json()["checks"].items() if value != "ok"}


def test_a_full_disk_is_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(health.shutil, "disk_usage", lambda home: usage(10**9, 10**9 - 5 * 10**6, 5 * 10**6))
    assert not_ready(client) == {"disk": "only 5 MB are free"}


def test_an_unwritable_workspace_is_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(health.Path, "touch", refuse)
    assert not_ready(client) == {"workspace": "cannot be written: Read-only file system"}


def test_a_database_that_is_away_is_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = Session.execute

    def away(self: Session, statement: object, *rest: object, **more: object) -> object:
        if str(statement) == "SELECT 1":
            raise OperationalError("SELECT 1", {}, Exception("away"))
        return execute(self, statement, *rest, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Session, "execute", away)
    assert not_ready(client) == {"database": "OperationalError"}


def test_an_ended_supervisor_is_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.app.state.supervisor, "healthy", lambda: False)  # type: ignore[attr-defined]
    assert not_ready(client) == {"supervisor": "its thread has ended"}


def test_a_model_worker_that_is_away_does_not_matter(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.app.state.worker, "condition", lambda: "ended")  # type: ignore[attr-defined]
    assert client.get("/readyz").status_code == 200
