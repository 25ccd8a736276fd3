"""Tests of API tokens: scopes, expiry, revocation, and that they stand for their user everywhere."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.access import accounts, tokens
from app.db.engine import SessionFactory
from app.db.tables import ApiToken, User
from sae.errors import UserError
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import write_sae

SAE = "demo/2-res-batchtopk-4k"


def user_of(sessions: SessionFactory, name: str = "ada", admin: bool = False) -> User:
    with sessions() as db:
        return accounts.set_password(db, name, "correct horse", admin=admin)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def made(client: TestClient, *scopes: str, admin: bool = False, days: int | None = None) -> dict[str, str]:
    """Make a user and a token with these scopes; return the header that sends it."""
    sessions: SessionFactory = client.app.state.sessions  # type: ignore[attr-defined]
    with sessions() as db:
        user = accounts.set_password(db, "grace", "correct horse", admin=admin)
        return bearer(tokens.make_token(db, user, "notebook", scopes, days))


@pytest.fixture
def program(client: TestClient, workspace: Workspace) -> TestClient:
    write_sae(workspace, SAE)
    client.app.state.catalog.sync()  # type: ignore[attr-defined]
    return client


def test_only_the_hash_of_a_token_is_stored(sessions: SessionFactory) -> None:
    user = user_of(sessions)
    with sessions() as db:
        secret = tokens.make_token(db, user, " notebook ", ["write"], 30)
        (stored,) = tokens.tokens_of(db, user.id)
    assert secret not in str(vars(stored))
    assert (stored.name, stored.scopes, stored.used) == ("notebook", "read write", None)
    assert stored.expires == pytest.approx(time.time() + 30 * 86_400, abs=60)


@pytest.mark.parametrize(("name", "scopes", "days", "field"), [
    ("", [], None, "token_name"), ("a\nb", [], None, "token_name"), ("x" * 81, [], None, "token_name"),
    ("x", ["fly"], None, "scope"), ("x", ["admin"], None, "scope"), ("x", [], 0, "days"), ("x", [], 4000, "days")])
def test_a_token_that_cannot_be_made_names_the_field(
    sessions: SessionFactory, name: str, scopes: list[str], days: int | None, field: str
) -> None:
    user = user_of(sessions)
    with sessions() as db, pytest.raises(UserError) as caught:
        tokens.make_token(db, user, name, scopes, days)
    assert caught.value.field == field


def test_the_last_use_is_noted_and_an_expired_or_revoked_token_is_refused(sessions: SessionFactory) -> None:
    user = user_of(sessions)
    with sessions() as db:
        secret = tokens.make_token(db, user, "notebook", [], 1)
        found = tokens.find_token(db, secret)
        assert found is not None
        assert found.used == pytest.approx(time.time(), abs=60)
        db.execute(update(ApiToken).values(expires=time.time() - 1))
        db.commit()
    with sessions() as db:
        assert tokens.find_token(db, secret) is None
        other = tokens.make_token(db, user, "other", [], None)
        tokens.revoke_token(db, user.id + 1, accounts.hash_secret(other))
        assert tokens.find_token(db, other) is not None
        tokens.revoke_token(db, user.id, accounts.hash_secret(other))
        assert tokens.find_token(db, other) is None


def test_the_tokens_of_a_removed_user_are_gone(sessions: SessionFactory) -> None:
    user = user_of(sessions)
    with sessions() as db:
        secret = tokens.make_token(db, user, "notebook", [], None)
        accounts.remove_user(db, user)
    with sessions() as db:
        assert tokens.find_token(db, secret) is None


@pytest.mark.parametrize("path", ["/api/saes", "/", "/nothing/here", "/api/runs"])
def test_an_unknown_token_is_refused_everywhere(program: TestClient, path: str) -> None:
    answer = program.get(path, headers=bearer("saescope_unknown") | {"Accept": "application/json"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "unknown, expired or revoked" in answer.json()["error"]


def test_a_scope_is_enforced(program: TestClient) -> None:
    reads = made(program)
    place = f"/api/saes/{SAE}/latents/3/label"
    assert program.get(place, headers=reads).status_code == 200
    for method, path in (("PUT", place), ("POST", f"/{SAE}/3/label")):
        refused = program.request(method, path, json={"text": "x"}, headers=reads)
        assert refused.status_code == 403
        assert "scope “write”" in refused.text
    steers = program.post("/api/steer", json={"prompt": "a", "latents": []}, headers=reads)
    assert (steers.status_code, "scope “steer”" in steers.text) == (403, True)
    writes = made(program, "write")
    assert program.put(place, json={"text": "x"}, headers=writes).json()["author"] == "grace"
    assert program.post("/api/steer", json={"prompt": "a", "latents": []}, headers=writes).status_code == 403


def test_admin_needs_the_scope_and_the_role(program: TestClient) -> None:
    body = {"kind": "evaluate", "spec": {"sae": "demo/none"}}
    writes = made(program, "write", admin=True)
    assert "scope “admin”" in program.post("/api/runs", json=body, headers=writes).json()["error"]
    all_scopes = made(program, "admin", admin=True)
    assert program.post("/api/runs", json=body, headers=all_scopes).status_code == 422  # allowed, but no such SAE
    assert program.put(f"/api/saes/{SAE}/latents/3/label", json={"text": "x"}, headers=all_scopes).status_code == 200
    accounts_of = program.app.state.sessions  # type: ignore[attr-defined]
    with accounts_of() as db:
        accounts.set_password(db, "ada", "correct horse")
        user = db.query(User).filter_by(name="grace").one()
        accounts.set_role(db, user, "editor")
    assert program.post("/api/runs", json=body, headers=all_scopes).status_code == 403


def test_a_token_needs_no_same_origin_and_its_cookie_does_not_count(program: TestClient, admin: TestClient) -> None:
    place, foreign = f"/api/saes/{SAE}/latents/3/label", {"Sec-Fetch-Site": "cross-site"}
    assert program.put(place, json={"text": "x"}, headers=foreign).status_code == 403
    assert program.put(place, json={"text": "x"}, headers=foreign | bearer("wrong")).status_code == 401
    writes = made(program, "write")
    assert program.put(place, json={"text": "x"}, headers=foreign | writes).json()["author"] == "grace"


def test_a_token_cannot_change_its_account(program: TestClient) -> None:
    every = made(program, "admin", admin=True)
    for path in ("/account/tokens", "/account/password", "/account/sessions/end", "/account/tokens/revoke"):
        assert program.post(path, headers=every).status_code == 403
    assert program.get("/account", headers=every).status_code == 403


def test_the_account_makes_shows_and_revokes_tokens(admin: TestClient) -> None:
    page = admin.post("/account/tokens", data={"token_name": "note <b>", "scope": ["steer", "admin"], "days": ""})
    secret = page.text.partition('id="new-token">')[2].partition("<")[0]
    assert secret.startswith(tokens.PREFIX)
    assert page.headers["cache-control"] == "no-store"
    later = admin.get("/account").text
    assert secret not in later
    assert "note &lt;b&gt;" in later
    assert "read, steer, admin" in later
    assert "not yet" in later
    cookies, admin.cookies = admin.cookies, {}  # type: ignore[assignment]
    assert admin.get("/api/saes", headers=bearer(secret)).status_code == 200
    admin.cookies = cookies
    assert "not yet" not in admin.get("/account").text
    admin.post("/account/tokens/revoke", data={"token": accounts.hash_secret(secret)})
    assert admin.get("/api/saes", headers=bearer(secret)).status_code == 401


def test_faults_of_the_form_stand_at_their_fields(admin: TestClient) -> None:
    page = admin.post("/account/tokens", data={"token_name": "mine", "days": "soon"})
    assert page.status_code == 422
    assert 'id="error-days"' in page.text
    assert 'value="mine"' in page.text
    assert 'value="soon"' in page.text
