"""Tests of error responses: pages that lead on, JSON, and fragments."""

from __future__ import annotations

from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.main import create_app
from app.settings import Settings
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.html import links, page


def test_error_pages_keep_the_sae_and_lead_to_the_nearest(browsable: TestClient) -> None:
    for path, status, nearest in (
        (f"/{BATCH}/160", 404, f"/{BATCH}/159"), (f"/{BATCH}/1/2/3/4/5", 404, f"/{BATCH}"),
        (f"/inspect/{BATCH}/999", 404, f"/{BATCH}")):
        html = page(browsable, path, status)
        assert nearest in links(html), path
        assert f'href="/{BATCH}" aria-current="page"' in html, "the switcher is on the SAE"
        assert f'href="/{BATCH}/tokens"' in html, "the SAE's pages are in the header"
        for href in links(html):
            assert browsable.get(href).status_code == 200
    assert f"/{BATCH}/4/source/0" in links(page(browsable, f"/{BATCH}/4/source/0?first=-1", 422))


def test_wrong_methods_are_named(browsable: TestClient) -> None:
    assert "Method not allowed" in browsable.delete(f"/{BATCH}").text


def test_error_pages_know_who_is_signed_in(admin: TestClient) -> None:
    for path in ("/nowhere/at/all/that/is/known", "/demo/none"):
        assert 'action="/logout"' in page(admin, path, 404)


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
