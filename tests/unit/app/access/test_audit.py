"""Tests of the log of administrators' changes: every change is in it, and nothing else."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient

from app.access import audit
from app.library.retention import sweep_audit
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.system.browsers import add_user, sign_in


def entries(client: TestClient) -> list[tuple[str, str, str]]:
    with client.app.state.sessions() as db:  # type: ignore[attr-defined]
        return [(one.user, one.action, one.detail) for one in audit.entries(db)]


def test_changes_of_administrators_are_logged_with_what_they_made(admin: TestClient, browsable: TestClient) -> None:
    admin.post("/admin/users/save", data={"name": "eve", "password": "correct horse", "role": "reader"})
    (eve,) = re.findall(r'/admin/users/(\d+)">eve<', admin.get("/admin/users").text)
    admin.post(f"/admin/users/{eve}/password", data={"password": "battery staple"})
    admin.post(f"/admin/saes/{BATCH}/note", data={"note": "the good one"})
    run = admin.post("/api/runs", json={"kind": "evaluate", "spec": {"sae": BATCH}})
    assert [row[0] for row in entries(admin)] == ["ada"] * (3 + (run.status_code == 201))
    said = entries(admin)[-3:]
    assert said[2] == ("ada", "Add a user", "eve, reader")
    assert (said[1][1], said[1][2]) == ("Give a user a new password", "eve")
    assert said[0][1] == "Save the note, and whether lists leave the SAE out"
    assert not any("battery" in word or "correct" in word for row in entries(admin) for word in row)
    page = admin.get("/admin/log").text
    assert "the good one" not in page
    assert "eve, reader" in page
    assert admin.get("/admin/log.json").json()[0]["path"]


def test_what_changed_nothing_is_not_logged(admin: TestClient, browsable: TestClient) -> None:
    admin.post("/admin/users/save", data={"name": "eve", "password": "short"})  # refused
    admin.get("/admin/users")
    admin.post(f"/{BATCH}/3/label", data={"text": "self"})  # has a history of its own
    add_user(admin, "eve")
    sign_in(admin, "eve").post("/admin/users/save", data={"name": "bob", "password": "correct horse"})
    assert entries(admin) == []
    assert "Nothing yet" in admin.get("/admin/log").text
    assert sign_in(admin, "eve").get("/admin/log").status_code == 403


def test_old_entries_go_and_earlier_ones_are_on_the_next_page(admin: TestClient) -> None:
    for n in range(3):
        admin.post("/admin/users/save", data={"name": f"user {n}", "password": "correct horse"})
    with admin.app.state.sessions() as db:  # type: ignore[attr-defined]
        newest, middle, oldest = audit.entries(db)
        assert [one.id for one in audit.entries(db, before=middle.id)] == [oldest.id]
        oldest.at = 0.0
        db.commit()
    admin.post("/admin/users/save", data={"name": "eve", "password": "correct horse"})
    sweep_audit(admin.app.state.sessions)  # type: ignore[attr-defined]
    assert len(entries(admin)) == 3
    assert newest.detail == "user 2, editor"
