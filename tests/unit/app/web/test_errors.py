"""Tests of error responses: pages that lead on, JSON, and fragments."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.requests import Request

from app.db.tables import Sae, User
from app.main import create_app
from app.settings import Settings
from app.web import errors
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


# ---- without a program


def request(path: str = "/demo/x", method: str = "GET", query: str = "", **headers: str) -> Request:
    raw = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": raw,
                    "app": Starlette(), "state": {}})


@pytest.mark.parametrize(("path", "accept", "json"), [
    ("/api/runs", "text/html", True), ("/demo/x.json", "", True), ("/healthz", "", True), ("/readyz", "", True),
    ("/demo/x", "application/json", True), ("/demo/x", "text/html,application/json", False), ("/demo/x", "", False),
    ("/demo/x", "*/*", False)])
def test_programs_get_json_by_the_address_or_the_header(path: str, accept: str, json: bool) -> None:
    assert errors.wants_json(request(path, accept=accept)) is json


def test_json_of_an_error_names_the_field_and_the_nearest_pages() -> None:
    answer = errors.error_response(
        request("/api/runs"), 422, "k: too large", field="k", headers={"Retry-After": "5"}, links=[("All", "/runs")])
    assert json.loads(bytes(answer.body)) == {
        "error": "k: too large", "status": 422, "field": "k", "nearest": ["/runs"]}
    assert answer.headers["retry-after"] == "5"
    plain = errors.error_response(request("/api/runs"), 404)
    assert json.loads(bytes(plain.body)) == {"error": "Not found", "status": 404}


def test_a_fragment_has_the_message_or_else_the_advice() -> None:
    said = bytes(errors.error_response(request(hx_request="true"), 404, "no <b>latent</b>").body).decode()
    assert "no &lt;b&gt;latent&lt;/b&gt;" in said
    assert "There is nothing at this address" in bytes(
        errors.error_response(request(hx_request="true"), 404).body).decode()
    assert "I&#39;m a Teapot" in bytes(errors.error_response(request(hx_request="true"), 418).body).decode()


@pytest.mark.parametrize(("status", "method", "query", "links"), [
    (404, "GET", "sort=x", ["/near", "/"]), (422, "GET", "sort=x", ["/near", "/demo/x", "/"]),
    (422, "POST", "sort=x", ["/near", "/"]), (422, "GET", "", ["/near", "/"]),
    (401, "GET", "a=b", ["/near", "/login?next=/demo/x%3Fa%3Db", "/"]),
    (401, "POST", "a=b", ["/near", "/login?next=/admin", "/"])])
def test_an_error_page_leads_on(status: int, method: str, query: str, links: list[str]) -> None:
    asked = request(method=method, query=query)
    found = errors._ways_on(asked, status, None, [("Near", "/near"), ("Build", "/admin/index")])
    assert [href for _, href in found] == links, "only administrators see their pages"
    asked.state.user = User(name="ada", is_admin=True)
    assert ("Build", "/admin/index") in errors._ways_on(asked, status, None, [("Build", "/admin/index")])


def test_an_error_page_of_an_sae_leads_to_the_sae_unless_it_is_there() -> None:
    sae = Sae(id="demo/x")
    assert ("demo/x", "/demo/x") not in errors._ways_on(request("/demo/x"), 404, sae, [])
    assert errors._ways_on(request("/demo/x/9"), 404, sae, []) == [("demo/x", "/demo/x"), ("Home", "/")]


def test_signed_out_readers_are_sent_to_the_form_and_programs_are_not() -> None:
    page = errors.sign_in_response(request("/admin/train", query="preset=quick"))
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=/admin/train%3Fpreset%3Dquick")
    part = errors.sign_in_response(request("/admin", hx_request="true"))
    assert (part.status_code, part.headers["HX-Redirect"]) == (401, "/login?next=/admin")
    assert errors.sign_in_response(request("/api/runs")).status_code == 401
    assert errors.sign_in_response(request("/runs/1/cancel", method="POST", accept="text/html")).status_code == 401
