"""Tests of comments, stars and the log for programs."""

from __future__ import annotations

from fastapi.testclient import TestClient

from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.system.browsers import add_user, sign_in

PLACE = f"/api/saes/{BATCH}/latents/3"


def test_comments_and_stars(admin: TestClient, browsable: TestClient) -> None:
    made = admin.post(f"{PLACE}/comments", json={"text": "seen"})
    assert (made.status_code, made.json()["author"]) == (201, "ada")
    assert [one["text"] for one in browsable.get(f"{PLACE}/comments").json()] == ["seen"]
    add_user(admin, "rae", "reader")
    rae = sign_in(admin, "rae")
    assert rae.post(f"{PLACE}/comments", json={"text": "x"}).status_code == 403
    assert rae.delete(f"{PLACE}/comments/{made.json()['id']}").status_code == 403
    assert rae.put(f"{PLACE}/star", json={"starred": True}).json() == {"starred": True}
    assert (rae.get(f"/api/saes/{BATCH}/stars").json(), admin.get(f"/api/saes/{BATCH}/stars").json()) == ([3], [])
    assert rae.get(f"{PLACE}/label").json()["starred"] is True
    assert admin.delete(f"{PLACE}/comments/{made.json()['id']}").status_code == 204
    assert admin.get(f"{PLACE}/comments").json() == []


def test_the_log_is_for_administrators(admin: TestClient) -> None:
    admin.post("/admin/users/save", data={"name": "eve", "password": "correct horse"})
    assert admin.get("/api/log").json()[0]["detail"] == "eve, editor"
    assert sign_in(admin, "eve").get("/api/log").status_code == 403
    assert TestClient(admin.app).get("/api/log").status_code == 401
