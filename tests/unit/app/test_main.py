"""Tests of the whole program: start, errors as pages or JSON, static files, the demo of an empty workspace."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

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
    if settings.several_servers:
        pytest.skip("several servers may share a Postgres database")
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
