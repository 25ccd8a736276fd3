"""Signing in and where it leads, the account page, and how administrators manage users."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient
from sqlalchemy import select

from app.access import accounts
from app.db.tables import User
from tests.unit.app.pages.system.browsers import add_user, sign_in


def test_users_are_added_and_removed(admin: TestClient) -> None:
    page = admin.get("/admin/users").text
    assert "<option selected>editor</option>" in page
    answer = admin.post("/admin/users/save", data={"name": "eve", "password": "short"})
    assert answer.status_code == 422
    assert "8 characters" in answer.text
    assert 'value="eve"' in answer.text
    assert admin.post("/admin/users/save", data={"name": "eve", "password": "correct horse"}).status_code == 303
    again = admin.post("/admin/users/save", data={"name": "eve", "password": "battery staple"})
    assert again.status_code == 422
    assert "the user eve already exists" in again.text
    other = sign_in(admin, "eve")
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
    eve = add_user(admin, "eve")
    browser = sign_in(admin, "eve")
    assert "Chrome on Linux" in admin.get(f"/admin/users/{eve}").text
    admin.post(f"/admin/users/{eve}/sessions/end")
    assert browser.get("/account").status_code == 303
    browser = sign_in(admin, "eve")
    assert admin.post(f"/admin/users/{eve}/password", data={"password": "short"}).status_code == 422
    assert admin.post(f"/admin/users/{eve}/password", data={"password": "battery staple"}).status_code == 303
    assert browser.get("/account").status_code == 303
    browser = sign_in(admin, "eve", "battery staple")
    assert browser.get("/admin").status_code == 403
    admin.post(f"/admin/users/{eve}/role", data={"role": "administrator"})
    assert browser.get("/admin").status_code == 200
    admin.post(f"/admin/users/{eve}/role", data={"role": "reader"})
    assert browser.get("/admin").status_code == 403
    assert "reader" in admin.get(f"/admin/users/{eve}").text
    assert admin.post(f"/admin/users/{eve}/role", data={"role": "owner"}).status_code == 422


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
    add_user(admin, "eve", "administrator")
    assert admin.post(f"/admin/users/{me}/delete", data={"sure": "yes"}).status_code == 303


def test_making_an_administrator_ends_unused_links(client: TestClient) -> None:
    state = client.app.state  # type: ignore[attr-defined]
    with state.sessions() as db:
        first = accounts.make_login_link(db, state.settings)
        accounts.add_user(db, "eve", "correct horse")
        assert client.get("/login", params={"token": first}).status_code == 303
        second = accounts.make_login_link(db, state.settings)
        accounts.add_user(db, "ada", "correct horse", "administrator")
    assert client.get("/login", params={"token": second}).status_code == 401
