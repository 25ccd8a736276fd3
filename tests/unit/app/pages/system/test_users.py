"""Signing in and where it leads, the account page, and how administrators manage users."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.access import accounts
from app.db.tables import User

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36"


def _add(client: TestClient, name: str, *, admin: bool = False) -> int:
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        return accounts.add_user(db, name, "correct horse", admin=admin).id


def _sign_in(client: TestClient, name: str, password: str = "correct horse", **more: str) -> TestClient:
    """A browser of its own in which `name` is signed in."""
    browser = TestClient(client.app, follow_redirects=False, headers={"user-agent": CHROME})
    answer = browser.post("/login", data={"name": name, "password": password, **more})
    assert answer.status_code == 303
    browser.headers["x-landed"] = answer.headers["location"]
    return browser


@pytest.mark.parametrize(("next", "landed"), [
    ("/demo/one/3?sort=1", "/demo/one/3?sort=1"), ("", "/"), ("/admin", "/"), ("/admin/train", "/"), ("/login", "/"),
    ("//evil.example", "/"), ("/logout", "/")])
def test_a_member_lands_where_it_may_go(client: TestClient, next: str, landed: str) -> None:
    _add(client, "eve")
    assert _sign_in(client, "eve", next=next).headers["x-landed"] == landed


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


def test_a_member_changes_the_password_and_only_other_sessions_end(client: TestClient) -> None:
    _add(client, "eve")
    here, there = _sign_in(client, "eve"), _sign_in(client, "eve")
    page = here.get("/account").text
    assert 'action="/logout"' in page
    assert page.count("Chrome on Linux") == 2
    for sent, words in (
        ({"current": "wrong", "password": "new password", "again": "new password"}, "not your present password"),
        ({"current": "correct horse", "password": "new password", "again": "other"}, "differ"),
        ({"current": "correct horse", "password": "short", "again": "short"}, "8 characters"),
    ):
        answer = here.post("/account/password", data=sent)
        assert answer.status_code == 422
        assert words in answer.text
    sent = {"current": "correct horse", "password": "new password", "again": "new password"}
    assert here.post("/account/password", data=sent).headers["location"] == "/account?changed=1"
    assert here.get("/account").status_code == 200
    assert there.get("/account").status_code == 303
    assert _sign_in(client, "eve", "new password").get("/account").status_code == 200


def test_one_session_is_ended_and_none_of_another_user(client: TestClient) -> None:
    _add(client, "eve")
    _add(client, "bob")
    here, there, other = (_sign_in(client, name) for name in ("eve", "eve", "bob"))
    theirs = accounts.hash_secret(other.cookies[accounts.COOKIE])
    here.post("/account/sessions/end", data={"session": theirs})
    assert other.get("/account").status_code == 200
    found = re.search(r'name="session" value="(\w{64})"', here.get("/account").text)
    assert found is not None
    here.post("/account/sessions/end", data={"session": found[1]})
    assert (here.get("/account").status_code, there.get("/account").status_code) == (200, 303)
    again = _sign_in(client, "eve")
    here.post("/account/sessions/end")
    assert (here.get("/account").status_code, again.get("/account").status_code) == (200, 303)


def test_the_account_page_needs_sign_in(client: TestClient) -> None:
    assert client.get("/account").headers["location"] == "/login?next=/account"


def test_users_are_added_and_removed(admin: TestClient) -> None:
    page = admin.get("/admin/users").text
    assert 'name="admin" value="yes">' in page  # not ticked until somebody ticks it
    answer = admin.post("/admin/users/save", data={"name": "eve", "password": "short"})
    assert answer.status_code == 422
    assert "8 characters" in answer.text
    assert 'value="eve"' in answer.text
    assert admin.post("/admin/users/save", data={"name": "eve", "password": "correct horse"}).status_code == 303
    again = admin.post("/admin/users/save", data={"name": "eve", "password": "battery staple"})
    assert again.status_code == 422
    assert "the user eve already exists" in again.text
    other = _sign_in(admin, "eve")
    assert other.get("/admin").status_code == 403  # signed in, but not an administrator
    assert other.post("/api/runs", json={"kind": "train"}).status_code == 403
    found = re.search(r"/admin/users/(\d+)/delete", admin.get("/admin/users").text)
    assert found is not None
    address = f"/admin/users/{found[1]}/delete"
    assert admin.post(address).headers["location"] == address  # it asks first
    assert "Remove eve?" in admin.get(address).text
    assert other.get("/account").status_code == 200
    assert admin.post(address, data={"sure": "yes"}).headers["location"] == "/admin/users"
    assert other.get("/account").status_code == 303
    for unknown in (999, 10**30):
        assert admin.post(f"/admin/users/{unknown}/delete").status_code == 404
        assert admin.get(f"/admin/users/{unknown}").status_code == 404


def test_an_administrator_sets_password_and_role_and_ends_sessions(admin: TestClient) -> None:
    eve = _add(admin, "eve")
    browser = _sign_in(admin, "eve")
    assert "Chrome on Linux" in admin.get(f"/admin/users/{eve}").text
    admin.post(f"/admin/users/{eve}/sessions/end")
    assert browser.get("/account").status_code == 303
    browser = _sign_in(admin, "eve")
    assert admin.post(f"/admin/users/{eve}/password", data={"password": "short"}).status_code == 422
    assert admin.post(f"/admin/users/{eve}/password", data={"password": "battery staple"}).status_code == 303
    assert browser.get("/account").status_code == 303
    browser = _sign_in(admin, "eve", "battery staple")
    assert browser.get("/admin").status_code == 403
    admin.post(f"/admin/users/{eve}/role", data={"admin": "yes"})
    assert browser.get("/admin").status_code == 200
    admin.post(f"/admin/users/{eve}/role")
    assert browser.get("/admin").status_code == 403


def test_the_last_administrator_stays(admin: TestClient) -> None:
    with admin.app.state.sessions() as db:  # type: ignore[attr-defined]
        me = db.scalar(select(User.id).where(User.name == "ada"))
    answer = admin.post(f"/admin/users/{me}/role")
    assert answer.status_code == 422
    assert "last administrator" in answer.text
    assert admin.post(f"/admin/users/{me}/delete", data={"sure": "yes"}).status_code == 409  # oneself
    with admin.app.state.sessions() as db:  # type: ignore[attr-defined]
        linked = User(name=accounts.LINK_USER, is_admin=True)
        db.add(linked)
        db.commit()
        admin.cookies.set(accounts.COOKIE, accounts.open_session(db, linked, admin.app.state.settings))  # type: ignore[attr-defined]
    answer = admin.post(f"/admin/users/{me}/delete", data={"sure": "yes"})
    assert answer.status_code == 409
    assert "last administrator" in answer.text
    _add(admin, "eve", admin=True)
    assert admin.post(f"/admin/users/{me}/delete", data={"sure": "yes"}).status_code == 303


def test_making_an_administrator_ends_unused_links(client: TestClient) -> None:
    state = client.app.state  # type: ignore[attr-defined]
    with state.sessions() as db:
        first = accounts.make_login_link(db, state.settings)
        accounts.add_user(db, "eve", "correct horse")
        assert client.get("/login", params={"token": first}).status_code == 303
        second = accounts.make_login_link(db, state.settings)
        accounts.add_user(db, "ada", "correct horse", admin=True)
    assert client.get("/login", params={"token": second}).status_code == 401
