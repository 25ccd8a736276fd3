"""SAEs and runs changed by programs: notes, names, deletion, resumption."""

from __future__ import annotations

from fastapi.testclient import TestClient

from app.jobs import queue
from sae.workspace.paths import Workspace
from tests.unit.app.conftest import BATCH, TOP

PLACE = f"/api/saes/{BATCH}"


def test_an_sae_is_annotated_hidden_renamed_and_deleted(boss: TestClient, workspace: Workspace) -> None:
    assert boss.patch(PLACE, json={"note": "good"}).json()["note"] == "good"
    hidden = boss.patch(PLACE, json={"hidden": True}).json()
    assert (hidden["note"], hidden["hidden"]) == ("good", True)
    assert boss.patch(PLACE, json={"note": "x" * 2001}).json()["field"] == "note"
    assert boss.patch(PLACE, json={"name": TOP.partition("/")[2]}).json()["field"] == "name"
    renamed = boss.patch(PLACE, json={"name": "best"}).json()
    assert (renamed["url"], renamed["note"]) == ("/demo/best", "good")
    assert boss.get("/api/log").json()[0]["detail"] == "name: best"
    assert boss.delete("/api/saes/demo/best").status_code == 204
    assert boss.delete("/api/saes/demo/best").status_code == 404
    assert boss.get("/demo/best").status_code == 404
    assert not workspace.sae("demo/best").exists()


def test_an_sae_in_use_stays_and_its_run_is_named(boss: TestClient, workspace: Workspace) -> None:
    with boss.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, "index", {"sae": BATCH}, "ada")
    answer = boss.delete(PLACE)
    assert answer.status_code == 409
    assert run.id in answer.json()["error"]
    assert boss.get(PLACE).status_code == 200


def test_a_run_is_resumed_and_deleted(boss: TestClient, workspace: Workspace) -> None:
    with boss.app.state.sessions() as db:  # type: ignore[attr-defined]
        run = queue.enqueue(db, workspace, "index", {"sae": BATCH}, "ada")
    place = f"/api/runs/{run.id}"
    assert boss.post(f"{place}/resume").status_code == 409
    assert boss.post(f"{place}/cancel").json()["state"] == "cancelled"
    assert boss.post(f"{place}/resume").json()["state"] == "queued"
    assert boss.post(f"{place}/cancel").status_code == 200
    assert boss.delete(place).status_code == 204
    assert boss.get(place).status_code == 404
    assert not workspace.run(run.id).exists()


def test_only_administrators_may(browsable: TestClient) -> None:
    run = "/api/runs/x"
    for method, path in (("PATCH", PLACE), ("DELETE", PLACE), ("POST", f"{run}/resume"), ("DELETE", run)):
        assert browsable.request(method, path, json={}).status_code == 401, path
