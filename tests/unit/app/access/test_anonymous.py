"""Tests of what people may do who are not signed in, by the setting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.access.anonymous import may_visit
from app.main import create_app
from app.settings import Settings
from app.worker.cached_requests import CachedRequests
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH, write_sae
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.system.browsers import add_user, sign_in

READS = (f"/{BATCH}/3", "/", "/search?q=self", "/lists", f"/api/saes/{BATCH}/latents", "/steer/steer-none")
COMPUTES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "/steer", {"data": {"sae": BATCH}}), ("POST", "/inspect", {"data": {"text": "a"}}),
    ("POST", "/api/inspect", {"json": {"sae": BATCH, "texts": ["a"]}}), ("GET", "/steer", {}), ("GET", "/inspect", {}),
    ("POST", "/api/search/text", {"json": {"text": "a"}}), ("GET", "/search/text?q=a", {}),
    ("GET", f"/inspect/{BATCH}/3?text=a", {}))


@pytest.fixture
def program(settings: Settings, made: dict[str, Synthetic], request: pytest.FixtureRequest) -> Iterator[TestClient]:
    import shutil

    write_sae(settings.workspace, BATCH, n_latents=160)
    target = settings.workspace.build(BATCH, "build-1")
    target.parent.mkdir(parents=True)
    shutil.copy(made[BATCH].path, target)
    app = create_app(settings.model_copy(update={"anonymous": request.param}), supervise=False)
    with TestClient(app, follow_redirects=False) as client:
        app.state.worker = FakeWorker()
        app.state.cached_requests = CachedRequests(app.state.worker)
        yield client


@pytest.mark.parametrize("program", ["read"], indirect=True)
def test_readers_without_an_account_let_no_model_work(program: TestClient) -> None:
    for path in READS:
        assert program.get(path).status_code in (200, 404), path
    for method, path, body in COMPUTES:
        answer = program.request(method, path, **body)
        assert answer.status_code in (303, 401), f"{method} {path}: {answer.status_code}"
        assert answer.status_code == 401 or answer.headers["location"].startswith("/login")
    assert program.app.state.worker.asked == []  # type: ignore[attr-defined]
    add_user(program, "rae", "reader")
    rae = sign_in(program, "rae")
    assert rae.get("/steer").status_code == 200
    assert rae.post("/api/inspect", json={"sae": BATCH, "texts": ["a"]}).status_code == 200
    assert rae.put(f"/api/saes/{BATCH}/latents/3/label", json={"text": "x"}).status_code == 403


@pytest.mark.parametrize("program", ["nothing"], indirect=True)
def test_everybody_signs_in(program: TestClient) -> None:
    for path in (*READS, "/nowhere/at/all/of/this"):
        answer = program.get(path)
        assert answer.status_code == (401 if path.startswith("/api") else 303), path
    for path in ("/login", "/healthz", "/readyz", "/metrics", "/static/css/base.css"):
        assert program.get(path).status_code in (200, 503), path
    add_user(program, "rae", "reader")
    assert sign_in(program, "rae").get(f"/{BATCH}/3").status_code == 200


@pytest.mark.parametrize("program", ["compute"], indirect=True)
def test_by_default_anyone_may_try_everything(program: TestClient, settings: Settings) -> None:
    for method, path, body in COMPUTES:
        assert program.request(method, path, **body).status_code not in (303, 401) or method == "POST", path
    assert may_visit(settings, "POST", "/steer")
