"""Tests of signing in and out, and of where that leads."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from app.access import accounts
from app.pages.system.login import safe_next
from app.settings import Settings
from tests.unit.app.pages.system.browsers import add_user, sign_in


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


@pytest.mark.parametrize(("next", "landed"), [
    ("/demo/one/3?sort=1", "/demo/one/3?sort=1"), ("", "/"), ("/admin", "/"), ("/admin/train", "/"), ("/login", "/"),
    ("//evil.example", "/"), ("/logout", "/")])
def test_a_member_lands_where_it_may_go(client: TestClient, next: str, landed: str) -> None:
    add_user(client, "eve")
    assert sign_in(client, "eve", next=next).headers["x-landed"] == landed


@pytest.mark.parametrize(("referer", "next"), [
    ("http://testserver/demo/one/3?q=a%20b", "/demo/one/3?q=a%20b"), ("http://evil.example/x", None),
    ("http://testserver/login", None), ("http://testserver//evil.example", None), ("http://[", None)])
def test_the_form_remembers_the_page_it_was_opened_from(client: TestClient, referer: str, next: str | None) -> None:
    page = client.get("/login", headers={"referer": referer}).text
    found = re.search(r'name="next" value="([^"]*)"', page)
    assert (found[1] if found else None) == next


def test_a_wrong_password_is_said_plainly(client: TestClient) -> None:
    page = client.post("/login", data={"name": "eve", "password": "x", "next": "/runs"})
    assert page.status_code == 401
    assert "Wrong name or password." in page.text
    assert 'name="next" value="/runs"' in page.text


@pytest.mark.parametrize(("address", "kept"), [
    ("/demo/x?sort=max", True), ("/", True), ("/admin", True), ("", False), ("demo", False), ("//evil.example", False),
    ("/\\evil.example", False), ("https://evil.example", False), ("/a\nb", False), ("/login?next=/", False),
    ("/logout", False), ("/login.json", False)])
def test_only_paths_of_ours_are_returned_to(address: str, kept: bool) -> None:
    assert safe_next(address) == (address if kept else "")


def test_signing_in_again_ends_the_session_before(client: TestClient) -> None:
    add_user(client, "eve")
    browser = sign_in(client, "eve")
    before = browser.cookies[accounts.COOKIE]
    browser.post("/login", data={"name": "eve", "password": "correct horse"})
    assert browser.cookies[accounts.COOKIE] != before
    assert browser.get("/login").headers["location"] == "/", "nobody needs the form twice"
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        assert accounts.session_user(db, before) is None


def test_signing_out_twice_is_no_error(client: TestClient) -> None:
    assert [client.post("/logout").headers["location"] for _ in range(2)] == ["/", "/"]
