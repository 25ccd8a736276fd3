"""Tests of users for programs: roles, sessions, and the last administrator, who stays."""

from __future__ import annotations

from fastapi.testclient import TestClient

from tests.unit.app.pages.system.browsers import sign_in


def test_users_are_added_changed_and_removed(admin: TestClient) -> None:
    made = admin.post("/api/users", json={"name": "eve", "password": "correct horse", "role": "reader"})
    assert (made.status_code, made.json()["role"]) == (201, "reader")
    place = f"/api/users/{made.json()['id']}"
    eve = sign_in(admin, "eve")
    assert [one["browser"] for one in admin.get(f"{place}/sessions").json()] == ["Chrome on Linux"]
    assert eve.get("/api/users").status_code == 403
    assert admin.put(f"{place}/role", json={"role": "editor"}).json()["role"] == "editor"
    assert admin.put(f"{place}/role", json={"role": "owner"}).status_code == 422
    assert admin.delete(f"{place}/sessions").status_code == 204
    assert eve.get("/account").status_code == 303
    assert [one["name"] for one in admin.get("/api/users").json()] == ["ada", "eve"]
    assert admin.delete(place).status_code == 204
    assert admin.delete(place).status_code == 404
    assert [one["action"] for one in admin.get("/api/log").json()] == [
        "Remove a user, whose sessions end", "End all sessions of a user", "Give a user another role", "Add a user"]


def test_what_is_refused_names_its_field(admin: TestClient) -> None:
    (ada,) = admin.get("/api/users").json()
    assert admin.put(f"/api/users/{ada['id']}/role", json={"role": "reader"}).json()["field"] == "user"
    assert admin.delete(f"/api/users/{ada['id']}").status_code == 409
    assert admin.post("/api/users", json={"name": "ada", "password": "correct horse"}).json()["field"] == "name"
    assert admin.post("/api/users", json={"name": "bob", "password": "short"}).json()["field"] == "password"
