"""Tests of the account page: password and sessions."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient

from app.access import accounts
from tests.unit.app.pages.system.browsers import add_user, sign_in


def test_a_member_changes_the_password_and_only_other_sessions_end(client: TestClient) -> None:
    add_user(client, "eve")
    here, there = sign_in(client, "eve"), sign_in(client, "eve")
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
    assert sign_in(client, "eve", "new password").get("/account").status_code == 200


def test_one_session_is_ended_and_none_of_another_user(client: TestClient) -> None:
    add_user(client, "eve")
    add_user(client, "bob")
    here, there, other = (sign_in(client, name) for name in ("eve", "eve", "bob"))
    theirs = accounts.hash_secret(other.cookies[accounts.COOKIE])
    here.post("/account/sessions/end", data={"session": theirs})
    assert other.get("/account").status_code == 200
    found = re.search(r'name="session" value="(\w{64})"', here.get("/account").text)
    assert found is not None
    here.post("/account/sessions/end", data={"session": found[1]})
    assert (here.get("/account").status_code, there.get("/account").status_code) == (200, 303)
    again = sign_in(client, "eve")
    here.post("/account/sessions/end")
    assert (here.get("/account").status_code, again.get("/account").status_code) == (200, 303)


def test_the_account_page_needs_sign_in(client: TestClient) -> None:
    assert client.get("/account").headers["location"] == "/login?next=/account"
