"""Tests of the whole program: start, errors as pages or JSON, static files, the demo of an empty workspace."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.jobs.launchers.local import LocalLauncher
from app.jobs.lock import WorkspaceLock
from app.main import create_app
from app.settings import Settings
from app.web.templating import static_url
from sae.errors import UserError
from sae.runs.folder import RunFolder, Status
from sae.specs.registry import demo_spec
from tests.unit.app.conftest import write_sae


def test_a_second_server_is_refused(client: TestClient, settings: Settings) -> None:
    with pytest.raises(UserError, match="in use by a saescope server"), TestClient(create_app(settings)):
        pass


def test_the_lock_of_the_caller_is_left_to_the_caller(settings: Settings) -> None:
    lock = WorkspaceLock(settings.home)
    with TestClient(create_app(settings, lock=lock, supervise=False)) as client:
        assert client.get("/healthz").status_code == 200
    with pytest.raises(UserError):
        WorkspaceLock(settings.home)
    lock.release()


def test_a_deleted_database_is_rebuilt_from_the_folders(settings: Settings) -> None:
    if settings.database_url:
        pytest.skip("this database is not a file of the workspace")
    write_sae(settings.workspace, "demo/one")
    settings.workspace.sae("demo/broken").mkdir()
    (settings.workspace.sae("demo/broken") / "sae.json").write_text('{"schema_version": 1, "id": "demo/bro')
    folder = RunFolder(settings.workspace.run("train-1"))
    folder.create("train", demo_spec().model_dump())
    folder.write_status(Status(state="succeeded", result={"sae": "demo/one"}))

    def seen() -> tuple[list[str], list[tuple[str, str]], int]:
        with TestClient(create_app(settings, supervise=False)) as client:
            client.app.state.supervisor.tick()  # type: ignore[attr-defined]
            saes, runs = client.get("/api/saes").json(), client.get("/api/runs").json()
            return ([sae["sae"] for sae in saes], [(run["id"], run["state"]) for run in runs],
                    client.get("/demo/one").status_code)

    before = seen()
    assert before == (["one"], [("train-1", "succeeded")], 200)
    for path in settings.home.glob("app.db*"):
        path.unlink()
    assert seen() == before


def test_errors_are_pages_for_people(client: TestClient) -> None:
    answer = client.get("/runs/none", headers={"accept": "text/html"})
    assert answer.status_code == 404
    assert "<h1>Not found</h1>" in answer.text
    assert "There is no run none." in answer.text


def test_errors_are_json_for_programs(client: TestClient) -> None:
    for path, headers in (("/api/runs/none", {}), ("/runs/none", {"accept": "application/json"})):
        answer = client.get(path, headers=headers)
        assert answer.json()["status"] == answer.status_code == 404
    answer = client.get("/api/runs?limit=0")
    assert (answer.status_code, answer.json()["field"]) == (422, "limit")


def test_errors_are_fragments_for_htmx_and_harmless(client: TestClient) -> None:
    answer = client.get("/runs/<script>", headers={"HX-Request": "true"})
    assert answer.status_code == 404
    assert "<html" not in answer.text
    assert "<script>" not in answer.text


def test_a_broken_handler_shows_no_traceback(settings: Settings) -> None:
    def broken() -> None:
        raise RuntimeError("a secret detail")

    app = create_app(settings, supervise=False)
    with TestClient(app, raise_server_exceptions=False) as client:
        app.state.catalog.list_saes = broken
        answer = client.get("/api/saes")
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_a_failed_write_is_a_page_for_the_one_who_is_signed_in(admin: TestClient) -> None:
    def broken(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO users"):
            raise OperationalError(statement, {}, Exception("the disk is full"))

    engine = admin.app.state.engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", broken)
    browser = TestClient(admin.app, raise_server_exceptions=False, cookies=admin.cookies)
    answer = browser.post("/admin/users/save", data={"name": "bob", "password": "battery staple"})
    assert answer.status_code == 507
    assert "<h1>The disk is full</h1>" in answer.text
    assert "The disk is full: nothing was stored." in answer.text
    assert "ada" in answer.text


def test_browsers_may_keep_versioned_files_forever(client: TestClient) -> None:
    for path in ("css/base.css", "js/app.js"):
        versioned, plain = client.get(static_url(path)), client.get(f"/static/{path}")
        assert "immutable" in versioned.headers["cache-control"]
        assert plain.headers["cache-control"] == "no-cache"
    missing = client.get("/static/none.css?v=1")
    assert missing.status_code == 404
    assert "cache-control" not in missing.headers


def test_head_is_get_without_the_body(client: TestClient) -> None:
    for path in ("/runs", "/healthz", "/runs/none", "/static/css/base.css"):
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == get.headers["content-type"]


def test_answers_are_compressed(client: TestClient) -> None:
    assert client.get("/runs", headers={"accept-encoding": "gzip"}).headers["content-encoding"] == "gzip"


def test_an_empty_workspace_starts_the_demo_once(settings: Settings, launcher: LocalLauncher) -> None:
    demo = settings.model_copy(update={"demo": True})
    for _ in range(2):
        with TestClient(create_app(demo, launcher=launcher, supervise=False)) as client:
            runs = client.get("/api/runs").json()
            assert [(run["kind"], run["state"]) for run in runs] == [("train", "queued")]
    folder = RunFolder(settings.workspace.run(runs[0]["id"]))
    assert folder.spec() == ("train", demo_spec().model_dump())


def test_no_demo_where_there_is_something(settings: Settings) -> None:
    demo = settings.model_copy(update={"demo": True})
    write_sae(settings.workspace)
    with TestClient(create_app(demo, supervise=False)) as client:
        assert client.get("/api/runs").json() == []
        assert [sae["url"] for sae in client.get("/api/saes").json()] == ["/demo/2-res-batchtopk-4k"]


def test_signing_in_and_out(client: TestClient, settings: Settings) -> None:
    from app.access.accounts import COOKIE, admin_link

    link = admin_link(client.app.state.sessions, settings, "")  # type: ignore[attr-defined]
    assert link is not None
    answer = client.get(link)
    cookie = answer.headers["set-cookie"]
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin")
    assert re.search("httponly", cookie, re.IGNORECASE)
    assert re.search("samesite=lax", cookie, re.IGNORECASE)
    assert client.get("/admin").status_code == 200
    kept = client.cookies[COOKIE]
    assert client.post("/logout").status_code == 303
    client.cookies.set(COOKIE, kept)  # the old cookie, put back, opens nothing
    assert client.get("/admin").status_code == 303
    assert client.get(link).status_code == 401


@pytest.mark.parametrize("target", [
    "//evil.example", "/\\evil.example", "https://evil.example", "javascript:x", "/a\nb"])
def test_sign_in_leads_nowhere_else(client: TestClient, target: str) -> None:
    from app.access.accounts import set_password

    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        set_password(db, "ada", "correct horse")
    answer = client.post("/login", data={"name": "ada", "password": "correct horse", "next": target})
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin")


def test_head_does_not_use_up_the_one_time_link(client: TestClient, settings: Settings) -> None:
    from app.access.accounts import admin_link

    link = admin_link(client.app.state.sessions, settings, "")  # type: ignore[attr-defined]
    assert link is not None
    assert "set-cookie" not in client.head(link).headers
    assert client.get(link).status_code == 303


def test_health_readiness_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["checks"] == {
        "database": "ok", "workspace": "ok", "disk": "ok", "worker": "ok", "supervisor": "ok"}
    client.get("/api/runs/none")
    measures = client.get("/metrics").text
    assert 'route="/api/runs/{run_id}",status="404"' in measures
    assert "saescope_saes 0.0" in measures
