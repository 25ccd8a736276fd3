"""Tests of rendering, static addresses and vendored files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from jinja2 import UndefinedError
from starlette.applications import Starlette
from starlette.requests import Request

from app.web.templating import STATIC, TEMPLATES, environment, is_htmx, render, static_url
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.html import page


def request(**headers: str) -> Request:
    raw = [(k.lower().replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": raw, "app": Starlette()}
    return Request(scope)


def test_error_page_escapes_and_varies() -> None:
    response = render(request(), "error.html", 404, title="Not <here>", message="<script>x</script>", links=[])
    body = bytes(response.body).decode()
    assert response.status_code == 404
    assert response.headers["Vary"] == "HX-Request, HX-Target"
    assert "<script>x" not in body
    assert "Not &lt;here&gt;" in body
    assert "style=" not in body
    assert not re.search(r"<script(?![^>]*\bsrc=)", body), "no inline script"


def test_an_undefined_name_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        environment().from_string("{{ nobody_gave_this }}").render()


def test_the_switcher_lists_the_saes() -> None:
    asked = request()
    saes = [SimpleNamespace(id="demo/one", hidden=False), SimpleNamespace(id="demo/two", hidden=True)]
    asked.app.state.catalog = SimpleNamespace(list_saes=lambda: saes)
    page = bytes(render(asked, "error.html", title="t", message="m", links=[]).body).decode()
    assert 'href="/demo/one"' in page
    assert "demo/two" not in page


def test_the_page_of_a_server_error_does_not_query_the_database() -> None:
    asked = request()
    asked.app.state.catalog = SimpleNamespace(list_saes=lambda: 1 / 0)
    assert render(asked, "error.html", 500, title="t", message="m", links=[]).status_code == 500


def test_htmx_is_recognised() -> None:
    assert is_htmx(request(HX_Request="true"))
    assert not is_htmx(request())


def test_static_addresses_follow_the_content() -> None:
    path, _, digest = static_url("css/base.css").partition("?v=")
    assert path == "/static/css/base.css"
    assert hashlib.sha256((STATIC / "css/base.css").read_bytes()).hexdigest().startswith(digest)
    with pytest.raises(FileNotFoundError):
        static_url("css/nowhere.css")


def test_every_template_compiles() -> None:
    for path in TEMPLATES.rglob("*.html"):
        environment().get_template(str(path.relative_to(TEMPLATES)))


def test_vendored_files_are_those_of_the_manifest() -> None:
    folder = STATIC / "vendor"
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert {item["file"] for item in listed} == {p.name for p in folder.iterdir()} - {"manifest.json"}
    for item in listed:
        digest = base64.b64encode(hashlib.sha384((folder / item["file"]).read_bytes()).digest()).decode()
        assert item["sha384"] == f"sha384-{digest}", item["file"]
        assert item["version"] in item["file"]
        assert item["package"]
        assert item["licence"]


def test_nothing_is_loaded_from_elsewhere() -> None:
    files = [*STATIC.rglob("*.css"), *STATIC.rglob("*.js"), *TEMPLATES.rglob("*.html")]
    for path in (p for p in files if "vendor" not in p.parts):
        assert not re.search(r"""(src|href)=["']https?:|@import|url\(\s*["']?https?:""", path.read_text()), path


def test_the_header_says_who_is_signed_in(browsable: TestClient, admin: TestClient) -> None:
    html = page(admin, f"/{BATCH}/4?sort=max&dir=desc")
    assert "account of </span>ada" in html
    assert 'href="/account"' in html
    assert '<form method="post" action="/logout">' in html
    browsable.cookies.clear()
    html = page(browsable, f"/{BATCH}/4?sort=max&dir=desc")
    assert f'href="/login?next=/{BATCH}/4%3Fsort%3Dmax%26dir%3Ddesc"' in html
    assert "/logout" not in html
